"""A file for SLURM: a search as a batch job on whole nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from captune.cluster.launch.filling import script
from captune.cluster.launch.options import Option, Search, TemplateError, flag

_WORD = r"[A-Za-z0-9][A-Za-z0-9._+-]*"  # SLURM splits its comment lines by rules of its own
_WORD_RULE = "letters, digits and ._+-"


@dataclass(frozen=True, kw_only=True)
class Slurm(Search):
    """A search as a batch job of SLURM, on whole nodes. A run that is there already is resumed."""

    kind: ClassVar[str] = "slurm"

    name: Annotated[str, Option("of the job", pattern=_WORD, rule=_WORD_RULE)] = "captune"
    nodes: Annotated[int, Option("how many; the first runs the search, and trials as all others do", least=1)] = 1
    gpus_per_node: Annotated[int, Option("GPUs of each node", least=0)] = 1
    cpus_per_task: Annotated[int, Option("CPUs of each node; SLURM runs one task on each", least=1)] = 8
    time: Annotated[
        str,
        Option(
            "limit of the job, [DAYS-]HOURS:MINUTES:SECONDS",
            pattern=r"([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}",
            rule="[DAYS-]HOURS:MINUTES:SECONDS, e.g. 08:00:00",
        ),
    ] = "08:00:00"
    partition: Annotated[str | None, Option("of SLURM", pattern=_WORD, rule=_WORD_RULE)] = None
    account: Annotated[str | None, Option("of SLURM", pattern=_WORD, rule=_WORD_RULE)] = None
    modules: Annotated[
        tuple[str, ...],
        Option(
            "environment modules that are loaded first, separated by commas",
            pattern=r"[A-Za-z0-9][A-Za-z0-9._+/-]*",
            rule="letters, digits and ._+/-",
        ),
    ] = ()
    venv: Annotated[
        str | None, Option("folder of the virtual environment with captune; what is on the path if left out")
    ] = None

    def check_together(self) -> None:
        for name in ("data", "run", "venv"):
            if (getattr(self, name) or "").startswith("~"):
                raise TemplateError(f"{flag(name)} must be written out, as ~ is quoted in the file")
        if "://" in self.run:
            raise TemplateError(f"--run must be a folder that all nodes see, got {self.run!r}")
        if self.venv is not None and ":" in self.venv:
            raise TemplateError(f"--venv must have no colon, which ends a folder in PATH, got {self.venv!r}")
        self.check_trial(self.cpus_per_task, self.gpus_per_node)


def slurm(options: Slurm) -> str:
    """The batch script that `sbatch` starts a search from."""
    return script(
        "slurm.sh",
        options,
        vars(options)
        | {
            "gpus": options.gpus_per_node or None,
            "modules": options.modules or None,
            "bin": None if options.venv is None else options.venv.rstrip("/") + "/bin",
            "search_command": tuple(options.search_command()),
        },
    )
