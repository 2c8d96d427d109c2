"""A file for SLURM: a search as a batch job on whole nodes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from captune.cluster.launch.options import Search, TemplateError, at_least, check_pattern, flag, header

_WORD = r"[A-Za-z0-9][A-Za-z0-9._+-]*"  # SLURM splits its comment lines by rules of its own
_MODULE = r"[A-Za-z0-9][A-Za-z0-9._+/-]*"
_SLURM_TIME = r"([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}"


@dataclass(frozen=True, kw_only=True)
class Slurm(Search):
    """A search as a batch job of SLURM, on whole nodes.

    Attributes:
        data: path that all nodes see.
        run: folder that all nodes see; a run that is there already is resumed.
        name: of the job.
        gpus_per_trial, cpus_per_trial: what one trial asks for.
        search_options: further options of `captune search`, as on its command line.
        nodes: how many; the first runs the search, and trials as all others do.
        gpus_per_node, cpus_per_task: of each node; SLURM runs one task on each.
        time: limit of the job, [DAYS-]HOURS:MINUTES:SECONDS.
        partition, account: of SLURM.
        modules: environment modules that are loaded first.
        venv: folder of the virtual environment with captune; whatever is on the path if left out.
    """

    name: str = "captune"
    nodes: int = 1
    gpus_per_node: int = 1
    cpus_per_task: int = 8
    time: str = "08:00:00"
    partition: str | None = None
    account: str | None = None
    modules: tuple[str, ...] = ()
    venv: str | None = None

    def _check(self) -> None:
        for option in ("name", "partition", "account"):
            if (value := getattr(self, option)) is not None:
                check_pattern(flag(option), value, _WORD, "letters, digits and ._+-")
        for module in self.modules:
            check_pattern("--modules", module, _MODULE, "letters, digits and ._+/-")
        check_pattern("--time", self.time, _SLURM_TIME, "[DAYS-]HOURS:MINUTES:SECONDS, e.g. 08:00:00")
        at_least("--nodes", self.nodes, 1)
        at_least("--gpus-per-node", self.gpus_per_node, 0)
        at_least("--cpus-per-task", self.cpus_per_task, 1)
        for option in ("data", "run", "venv"):
            if (getattr(self, option) or "").startswith("~"):
                raise TemplateError(f"{flag(option)} must be written out, as ~ is quoted in the file")
        if "://" in self.run:
            raise TemplateError(f"--run must be a folder that all nodes see, got {self.run!r}")
        if self.venv is not None and ":" in self.venv:
            raise TemplateError(f"--venv must have no colon, which ends a folder in PATH, got {self.venv!r}")
        self.check_trial(self.cpus_per_task, self.gpus_per_node)


def slurm(options: Slurm) -> str:
    """The batch script that `sbatch` starts a search from."""
    directives = {
        "job-name": options.name,
        "output": "%x-%j.log",
        "time": options.time,
        "nodes": options.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": options.cpus_per_task,
        "gpus-per-node": options.gpus_per_node or None,
        "mem": 0,
        "partition": options.partition,
        "account": options.account,
        "signal": "B:TERM@120",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in directives.items() if value is not None]
    parts = [
        "#!/bin/bash\n" + header("slurm", options, _SLURM_NOTES),
        # Symmetric-run refuses a node on which a Ray runs, and stops every Ray of its user when it ends.
        "\n".join([*lines, "#SBATCH --exclusive", ""]),
        _slurm_values(options),
        _SLURM_SCRIPT,
    ]
    return "\n".join(parts)


def _slurm_values(options: Slurm) -> str:
    """Every value of the user, once, as quoted assignments: the script behind them is the same for all."""
    load = f"set +u  # modules read what is not set\nmodule load {shlex.join(options.modules)}\nset -u\n"
    path = "" if options.venv is None else f"export PATH={shlex.quote(options.venv.rstrip('/') + '/bin')}:$PATH\n"
    return (
        "set -euo pipefail\n"
        + (load if options.modules else "")
        + path
        + f"cpus={options.cpus_per_task}\n"
        + f"gpus={options.gpus_per_node}\n"
        + f"record={shlex.quote(options.run.rstrip('/') + '/run.json')}\n"
        + f"search=({shlex.join(options.words())})\n"
        + f"resume=({shlex.join(options.resume_words())})\n"
        + f"again={shlex.quote(shlex.join(options.resume_words()))}\n"
    )


_SLURM_NOTES = """
    A search by captune as a batch job of SLURM. FILE stands for this file, JOB for the job's number.
    Start:      sbatch FILE
    Dashboard:  the job's log says the ssh command and where the token is; it listens on the first node's loopback only
    Stop:       scancel --batch --signal=TERM JOB ends the search as the time limit does; scancel JOB ends it at once
    Go on:      sbatch FILE again; a run that is there already is resumed
"""

_SLURM_SCRIPT = r"""
: "${SLURM_JOB_ID:?start this file with sbatch}"

# In the folder that sbatch was called in, as all nodes have to see it.
folder=${SLURM_SUBMIT_DIR:-$PWD}/.captune-$SLURM_JOB_ID
mkdir -p "$folder"
chmod 700 "$folder"
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$folder/token")
unset RAY_ADDRESS RAY_AUTH_TOKEN
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
export RAY_TMPDIR=/tmp/captune-$SLURM_JOB_ID RAY_USAGE_STATS_ENABLED=0
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

nodes=$SLURM_JOB_NUM_NODES
each=(srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$cpus" --export=ALL)

clean() {
  status=$?
  rm -rf "$folder"
  if [ "$status" -eq 0 ]; then
    "${each[@]}" rm -rf "$RAY_TMPDIR" || true
  else
    echo "Ray's own logs are in $RAY_TMPDIR on each node" >&2
  fi
}
trap clean EXIT

# Made here, not by Ray, so that nobody else on a node has made it before.
"${each[@]}" bash -c 'rm -rf "$1" && mkdir -m 700 "$1"' make "$RAY_TMPDIR"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${head%%$'\n'*}
# This script runs on the first node. Its name may stand for its loopback, which other nodes cannot reach.
address=$(getent ahostsv4 "$head" | awk '$1 !~ /^127\./ { print $1; exit }' || true)
if [ -z "$address" ]; then
  address=$(hostname -I)
  address=${address%% *}
fi
port=$((20000 + SLURM_JOB_ID % 10000))

if [ -e "$record" ]; then
  search=("${resume[@]}")
fi
echo "dashboard: ssh -N -L 8265:127.0.0.1:8265 $head, then http://127.0.0.1:8265; token: $folder/token"

step=
notice() {
  echo "SLURM ends the job soon; the search stops. To go on: sbatch the same file again, or $again" >&2
  # The search alone, as one that Ctrl-C ends: a signal to the step would end Ray under it.
  if [ -s "$folder/pid" ]; then
    kill -INT "$(cat "$folder/pid")" || true
  elif [ -n "$step" ]; then
    kill -TERM "$step" || true
  else
    exit 143
  fi
}
trap notice TERM

"${each[@]}" ray symmetric-run --address "$address:$port" --min-nodes "$nodes" \
  --num-cpus="$cpus" --num-gpus="$gpus" --dashboard-host=127.0.0.1 --dashboard-port=8265 \
  -- bash -c 'echo "$$" > "$1/pid"; shift; exec "$@"' search "$folder" "${search[@]}" &
step=$!

status=0
wait "$step" || status=$?
while kill -0 "$step" 2> /dev/null; do # a signal ends a wait, not the step
  status=0
  wait "$step" || status=$?
done
exit "$status"
"""
