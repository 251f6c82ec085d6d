#!/usr/bin/env bash
# A run on a Slurm cluster with GPUs, submitted from the folder of this repository:
#
#   sbatch launch/slurm.sh launch.train --config=configs/imagenet64.py --workdir=/shared/imagenet64
#
# Options before the script's name replace those below: sbatch --nodes=4 --time=2:00:00 launch/...
# JAX expects one task per GPU on Slurm; with --ntasks-per-node=1 a task uses all GPUs of its node.
# $VENV (default .venv here) is an environment with the [cuda] extra.
#
# Slurm sends SIGTERM to the tasks five minutes before the time limit and on preemption, but not to
# this shell, because srun would then kill the tasks. They save and exit with code 75; the job is
# queued again under its number and resumes. DRY_RUN=1 prints the commands instead, outside a job too:
#
#   DRY_RUN=1 bash launch/slurm.sh launch.train --config=digits --workdir=/shared/digits
#
#SBATCH --job-name=cfg_jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

PREEMPTED=75

fail() {
  echo "error: $*" >&2
  exit 2
}

run() {
  if [ "${DRY_RUN:-0}" != 0 ]; then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    "$@"
  fi
}

if [ "${1:-}" = cfg-jax ]; then # cfg-jax train is launch.train
  shift
  set -- "launch.${1:-}" "${@:2}"
fi
case ${1:-} in
  --help | -h | help)
    sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
    exit
    ;;
  launch.?*) ;;
  *) fail "cannot run '${1:-}': sbatch launch/slurm.sh launch.train --config=... --workdir=..." ;;
esac
[ -n "${SLURM_JOB_ID:-}" ] || [ "${DRY_RUN:-0}" != 0 ] \
  || fail "no Slurm job: start this script with sbatch, or set DRY_RUN=1 to print the commands"
module=$1
shift
cd "${SLURM_SUBMIT_DIR:-.}" # Slurm runs a copy of this script in another folder
venv=${VENV:-.venv}
case $venv in
  /*) ;;
  *) venv=$PWD/$venv ;;
esac
export PATH="$venv/bin:$PATH"
# Since Slurm 22.05 srun does not inherit this from sbatch.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
if [ "${SLURM_NTASKS_PER_NODE:-}" = 1 ] && [ "${SLURM_GPUS_ON_NODE:-1}" -gt 1 ]; then
  # By default JAX gives a Slurm task one device.
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

# Forwards a SIGTERM to the tasks; the shell waits for their exit code, even if scancel fails.
trap 'run scancel --signal=TERM "$SLURM_JOB_ID" || :' TERM
# The exit of the first task that has saved must not kill the others.
run srun --kill-on-bad-exit=0 --wait=0 python -m "$module" --distributed=on "$@" &
while :; do
  code=0
  wait $! || code=$?
  kill -0 $! 2>/dev/null || break
done
# Bash keeps the exit code if the trap interrupted the last wait as the step ended.
code=0
wait $! || code=$?

if [ "$code" -eq "$PREEMPTED" ]; then
  echo "preempted and saved: queued again"
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
