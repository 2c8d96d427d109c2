#!/bin/bash
# A search by captune as a batch job of SLURM. FILE stands for this file, JOB for the job's number.
# Made by captune <version>: <command>
# Start:      sbatch FILE
# Dashboard:  the job's log says the ssh command and where the token is; it listens on the first node's loopback only
# Stop:       scancel --batch --signal=TERM JOB ends the search as the time limit does; scancel JOB ends it at once
# Go on:      sbatch FILE again; a run that is there already is resumed
# Chain:      sbatch --dependency=afterany:JOB FILE; afterok would wait for ever, as a job that met its limit has not ended well

#SBATCH --job-name=<name>
#SBATCH --output=%x-%j.log
#SBATCH --time=<time>
#SBATCH --nodes=<nodes>
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=<cpus_per_task>
#SBATCH --gpus-per-node=<gpus>
#SBATCH --mem=0
#SBATCH --partition=<partition>
#SBATCH --account=<account>
#SBATCH --signal=B:TERM@120
# After the loss of a node SLURM starts the job anew, and the search goes on.
#SBATCH --requeue
#SBATCH --open-mode=append
# It stops every Ray of its user on its nodes, before it starts its own and when it ends.
#SBATCH --exclusive

set -euo pipefail
set +u; module load <modules>; set -u  # modules read what is not set
export PATH=<bin>:$PATH
cpus=<cpus_per_task>
gpus=<gpus_per_node>
search=(<search_command>)

: "${SLURM_JOB_ID:?start this file with sbatch}"

# In the folder that sbatch was called in, as all nodes have to see it.
folder=${SLURM_SUBMIT_DIR:-$PWD}/.captune-$SLURM_JOB_ID
rm -rf "$folder" # of the same job before it was started anew
mkdir "$folder"
chmod 700 "$folder"
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$folder/token")
unset RAY_ADDRESS RAY_AUTH_TOKEN
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
export RAY_TMPDIR=/tmp/captune-$SLURM_JOB_ID RAY_USAGE_STATS_ENABLED=0

nodes=$SLURM_JOB_NUM_NODES
task=(--ntasks-per-node=1 --cpus-per-task="$cpus" --export=ALL)
each=(srun --nodes="$nodes" --ntasks="$nodes" "${task[@]}")

step=
others=
noticed=
# Else they wait a minute for a head that is gone.
release() {
  if [ -n "$others" ]; then
    kill -TERM "$others" 2> /dev/null || true
    wait "$others" 2> /dev/null || true
    others=
  fi
}
clean() {
  status=$?
  release
  rm -rf "$folder"
  if [ "$status" -eq 0 ] || [ "$noticed" ]; then
    "${each[@]}" rm -rf "$RAY_TMPDIR" || true
  else
    echo "Ray's own logs are in $RAY_TMPDIR on each node" >&2
  fi
}
trap clean EXIT

# A job that is started anew can meet its own Ray of before. The folder is made here, not by Ray, so that nobody else on a
# node has made it.
"${each[@]}" bash -c 'ray stop --force > /dev/null 2>&1; rm -rf "$1" && mkdir -m 700 "$1"' make "$RAY_TMPDIR"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${head%%$'\n'*}
# This script runs on the first node. Its name may stand for its loopback, which other nodes cannot reach.
address=$(getent ahostsv4 "$head" | awk '$1 !~ /^127\./ { print $1; exit }' || true)
if [ -z "$address" ]; then
  address=$(hostname -I)
  address=${address%% *}
fi
port=$((20000 + SLURM_JOB_ID % 10000))

echo "dashboard: ssh -N -L 8265:127.0.0.1:8265 $head, then http://127.0.0.1:8265; token: $folder/token"

notice() {
  noticed=yes
  echo "SLURM ends the job soon; the search stops. To go on: sbatch the same file again" >&2
  # The search alone, as one that Ctrl-C ends: a signal to the step would end Ray under it.
  if [ -s "$folder/pid" ]; then
    kill -INT "$(cat "$folder/pid")" 2> /dev/null || true
  elif [ -n "$step" ]; then
    kill -TERM "$step" || true
  else
    exit 143
  fi
}
trap notice TERM

# What the first node does: Ray's head, and the search beside it.
lead() {
  trap 'ray stop > /dev/null 2>&1' EXIT
  trap 'exit 143' TERM
  ray start --head --node-ip-address="$address" --port="$port" --num-cpus="$cpus" --num-gpus="$gpus" \
    --dashboard-host=127.0.0.1 --dashboard-port=8265 > /dev/null || exit 1
  # The search looks at the nodes that are there, and uses those that come later.
  for ((tries = 0; tries < 60 && nodes > 1; tries++)); do
    if [ "$(captune cluster status --json 2> /dev/null | grep -c '"node":')" -ge "$nodes" ]; then break; fi
    sleep 2
  done
  (echo "$BASHPID" > "$folder/pid"; exec "$@")
}
export -f lead
export folder nodes address port cpus gpus

# The other nodes have a step of their own, which can be ended when the search is done. Ray gives a head that is slow up.
if [ "$nodes" -gt 1 ]; then
  srun --nodes="$((nodes - 1))" --ntasks="$((nodes - 1))" --exclude="$head" "${task[@]}" \
    bash -c 'until "$@"; do sleep 2; done' join ray start --block --address="$address:$port" \
    --num-cpus="$cpus" --num-gpus="$gpus" &
  others=$!
fi
srun --nodes=1 --ntasks=1 --nodelist="$head" "${task[@]}" bash -c 'lead "$@"' lead "${search[@]}" &
step=$!

# The head's Ray takes seconds to end, in which the others can.
while kill -0 "$step" 2> /dev/null; do
  sleep 1
  if [ -s "$folder/pid" ] && ! kill -0 "$(cat "$folder/pid")" 2> /dev/null; then release; fi
done
wait "$step"
