#!/usr/bin/env bash
# Commands of launch/tpu_vm.sh on each worker of a TPU slice, in its copy of this repository:
#   install [EXTRAS]       make .venv, with its own Python, the extra tpu and others, such as wandb
#   mount DEVICE FOLDER    mount a disk with prepared data, read-only
#   start MODULE ARGS...   run python -m MODULE ARGS... in the background, beyond the ssh session
#   status                 print run: idle, run: running, or run: exited CODE
#   log [--follow]         print the last lines of the run's output
#   stop                   send SIGTERM and wait until the run has saved and exited
# The folder $RUN_STATE (default .run) holds pid, boot, exit_code and log of the run.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON_VERSION=3.12
STOP_SECONDS=${STOP_SECONDS:-600}
state=${RUN_STATE:-.run}

fail() {
  echo "error: $*" >&2
  exit 2
}

boot() { # a reboot changes it and makes process ids meaningless
  cat /proc/sys/kernel/random/boot_id
}

running() {
  [ ! -s "$state/exit_code" ] && [ -s "$state/pid" ] && [ "$(boot)" = "$(cat "$state/boot")" ] \
    && kill -0 "$(cat "$state/pid")" 2>/dev/null
}

status() {
  if running; then
    echo "run: running"
  elif [ -s "$state/exit_code" ]; then
    echo "run: exited $(cat "$state/exit_code")"
  elif [ -s "$state/pid" ]; then
    echo "run: exited 137" # killed together with the shell that writes the code
  else
    echo "run: idle"
  fi
}

install() {
  # Cloud TPU images have an older Python than this package needs.
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --clear --python "$PYTHON_VERSION" .venv
  python3 -m uv pip install --quiet --python .venv/bin/python -e ".[tpu${1:+,$1}]"
}

mount_data() {
  sudo mkdir -p "$2"
  mountpoint -q "$2" || sudo mount -o ro,noload "$1" "$2"
}

start() {
  ! running || fail "a run is going on, process $(cat "$state/pid"): stop it first"
  mkdir -p "$state"
  rm -f "$state/exit_code" "$state/pid"
  boot >"$state/boot"
  # shellcheck disable=SC2016  # the shell within expands it
  PATH="$PWD/.venv/bin:$PATH" setsid bash -c '
    state=$1
    shift
    trap : TERM # a shutdown signals this shell too, which must still write the code
    python -m "$@" >>"$state/log" 2>&1 &
    echo $! >"$state/pid"
    while :; do
      code=0
      wait $! || code=$?
      kill -0 $! 2>/dev/null || break
    done
    # Bash keeps the exit code if a signal interrupted the last wait as the run ended.
    code=0
    wait $! || code=$?
    echo $code >"$state/exit_code"
  ' run "$state" "$@" </dev/null >/dev/null 2>&1 &
  until [ -s "$state/pid" ]; do sleep 0.1; done
  echo "started, process $(cat "$state/pid")"
}

stop() {
  if running; then
    kill -TERM "$(cat "$state/pid")"
    for ((second = 0; second < STOP_SECONDS; second++)); do
      running || break
      sleep 1
    done
  fi
  status
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" ;;
  status | stop) "$command" ;;
  install) install "$@" ;;
  mount)
    [ $# -eq 2 ] || fail "mount needs a device and a folder"
    mount_data "$@"
    ;;
  start)
    [ $# -gt 0 ] || fail "start needs a module and its arguments"
    start "$@"
    ;;
  log)
    [ -e "$state/log" ] || fail "no run was started here"
    tail -n 50 ${1:+-F} "$state/log"
    ;;
  *) fail "unknown command '$command': install, mount, start, status, log or stop" ;;
esac
