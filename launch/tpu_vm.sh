#!/usr/bin/env bash
# A Cloud TPU slice, from the request to its removal:
#
#   launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [--project=PROJECT] [OPTIONS] [-- MODULE ARGS]
#
#   create     request it: --type=v5litepod-16 [--spot] [--runtime=VERSION] [--data_disk=DISK]
#   wait       wait until it is active
#   install    install this repository, as committed, and its packages on every worker:
#              [--extras=wandb] [--netrc=FILE]
#   start      run python -m MODULE --distributed=on ARGS on every worker, in the background, with
#              --data_disk mounted
#   status     print the status of the request and of the run
#   logs       print the last lines of a worker's output: [--worker=0] [--follow]
#   stop       send SIGTERM to the run, which saves and exits with code 75
#   restart    request a preempted slice again and restart the run; takes the options of create,
#              install and start
#   watch      restart as needed until the run has ended; the slice stays, and bills
#   delete     delete the slice and the request
#
# Options:
#   --name=NAME, --zone=ZONE, --project=PROJECT, --type=TYPE   of the slice; TPU_NAME, TPU_ZONE,
#                        TPU_PROJECT and TPU_TYPE are their defaults
#   --runtime=VERSION    software of the workers; follows from --type if unset
#   --spot               cheaper, and may be preempted at any time
#   --data_disk=DISK     disk with prepared data, projects/PROJECT/zones/ZONE/disks/NAME, mounted
#                        read-only at /mnt/data
#   --data_device=PATH   its device on a worker (default /dev/sdb)
#   --extras=LIST        extras of setup.py besides tpu, such as wandb
#   --netrc=FILE         file with the key of Weights & Biases, copied to every worker
#   --worker=NUMBER      worker whose output logs prints (default 0)
#   --follow             go on printing
#   --dry-run            or DRY_RUN=1, before --: print every command, quoted for a shell, and run
#                        none
#   --help               print this
set -euo pipefail

MISTAKE=2       # user error: never restarted
PREEMPTED=75    # saved: always restarted
MAX_RESTARTS=3  # after other exit codes, in one watch; also of failed commands, in a row
MAX_UNKNOWN=15  # polls in a row without an answer, in one watch
POLL_SECONDS=${POLL_SECONDS:-60}
REMOTE=cfg_jax # folder on a worker
DATA_FOLDER=/mnt/data

root=$(dirname "$0")/..

exec 3>&1 # output of a dry run, also from within $(...)

# shellcheck source=launch/tpu_checks.sh
source "$root/launch/tpu_checks.sh"

# quoted WORDS...: one line that a shell parses back into WORDS.
quoted() {
  local word line="" escaped="'\\''"
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_./:=,@%+-]* | "") word="'${word//\'/$escaped}'" ;;
    esac
    line="$line $word"
  done
  echo "${line# }"
}

# run COMMAND...: prints the command in a dry run.
run() {
  if [ -n "$dry_run" ]; then
    quoted "$@" >&3
  else
    "$@"
  fi
}

tpus() { # tpus GROUP ACTION ARGS...: gcloud compute tpus, in the slice's zone and project
  run gcloud compute tpus "$@" --zone="$zone" ${project:+"--project=$project"}
}

on_worker() { # on_worker all|NUMBER COMMAND ARGS...: runs a command of launch/tpu_worker.sh
  local worker=$1
  shift
  tpus tpu-vm ssh "$name" --worker="$worker" \
    --command="bash $REMOTE/launch/tpu_worker.sh $(quoted "$@")"
}

state() { # state of the request: ACTIVE, SUSPENDED, ...
  tpus queued-resources describe "$name" --format='value(state.state)' || return
  [ -z "$dry_run" ] || echo DRY_RUN
}

run_status() { # a line "run: ..." per worker; a new one has no script
  tpus tpu-vm ssh "$name" --worker=all \
    --command="bash $REMOTE/launch/tpu_worker.sh status 2>/dev/null || echo run: idle"
}

runtime_of() { # JAX's in cloud.google.com/tpu/docs/runtimes
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-* | v3-* | v2-*) echo tpu-ubuntu2204-base ;;
    *) fail "--type=$1: give v2-, v3-, v4-, v5p-, v6e- or v5litepod-, then the size; or --runtime" ;;
  esac
}

create() {
  tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$runtime" ${spot:+--spot} \
    ${data_disk:+"--data-disk=source=$data_disk,mode=read-only"}
}

await() {
  local now
  while :; do
    now=$(state)
    case $now in
      ACTIVE | DRY_RUN) return ;;
      FAILED | SUSPENDED) fail "the request for $name is $now: launch/tpu_vm.sh delete, then create" ;;
    esac
    echo "$name: $now" >&2
    sleep "$POLL_SECONDS"
  done
}

install() {
  local archive=/tmp/cfg_jax.tar.gz changed
  [ -n "$dry_run" ] || archive=$(mktemp) || return
  changed=$(uncommitted) || [ -n "$dry_run" ] || return
  [ -z "$changed" ] \
    || echo "warning: changes that are not committed are not installed: $changed" >&2
  run git archive --format=tar.gz --output="$archive" HEAD \
    && tpus tpu-vm scp "$archive" "$name:$REMOTE.tar.gz" --worker=all \
    && run rm "$archive" \
    && tpus tpu-vm ssh "$name" --worker=all \
      --command="mkdir -p $REMOTE && tar -xzf $REMOTE.tar.gz -C $REMOTE" \
    && { [ -z "$netrc" ] || tpus tpu-vm scp "$netrc" "$name:.netrc" --worker=all; } \
    && on_worker all install ${extras:+"$extras"}
}

start() { # mounts every time, because a restarted host has lost its mounts
  { [ -z "$data_disk" ] || on_worker all mount "${data_device:-/dev/sdb}" "$DATA_FOLDER"; } \
    && on_worker all start "$module" --distributed=on ${arguments[@]+"${arguments[@]}"}
}

remove() {
  tpus queued-resources delete "$name" --force --quiet
}

restart() {
  local now
  now=$(state)
  while [ "$now" = SUSPENDING ]; do
    echo "$name: $now" >&2
    sleep "$POLL_SECONDS"
    now=$(state)
  done
  case $now in
    ACTIVE)
      start
      return
      ;;
    SUSPENDED | FAILED | DRY_RUN)
      remove
      create
      ;;
  esac
  await
  install
  start
}

# The parts of watch, which share its variables in capitals. It calls functions behind if and ||,
# where set -e has no effect, so these functions chain their commands with &&.

give_up() { # give_up WHY
  fail "$name: $*; the slice, if there is one, bills until launch/tpu_vm.sh delete"
}

failed() { # counts a failed request or command; the next poll tries again
  FAILURES=$((FAILURES + 1))
  [ "$FAILURES" -le "$MAX_RESTARTS" ] || give_up "$1 failed $FAILURES times"
}

replace() { # replace STATE: REMOVED is set until there is a new request
  if [ "$1" != unknown ]; then
    REMOVED=1
    remove || return
  fi
  create || return
  REMOVED=""
}

go_on() { # go_on STATUS: for "run: exited CODE" of every worker; returns 1 if the run is done
  if ! echo "$1" | grep -q -v -x "run: exited 0"; then
    return 1
  elif echo "$1" | grep -q -v -x -e "run: exited 0" -e "run: exited $PREEMPTED"; then
    RESTARTS=$((RESTARTS + 1))
    if [ "$RESTARTS" -gt "$MAX_RESTARTS" ] || echo "$1" | grep -q -x "run: exited $MISTAKE"; then
      give_up "the run ended and is not restarted, launch/tpu_vm.sh logs shows why"
    fi
  fi
  start || failed start
}

watch() { # removes a slice only if the service says that it is gone
  local now unknown=0 own=""
  if [ -n "$dry_run" ]; then # commands for a slice that is gone
    state >/dev/null
    run_status
    restart
    return
  fi
  RESTARTS=0 FAILURES=0 REMOVED=""
  COMPLAINTS=$(mktemp)
  trap 'rm -f "$COMPLAINTS"' EXIT
  while :; do
    now=$(state 2>"$COMPLAINTS") || now=unknown
    if [ "$now" = ACTIVE ]; then
      now=$(run_status 2>"$COMPLAINTS" | grep -o "run: .*") || now=unknown
    fi
    echo "$now" | sort | uniq -c | sed -E "s|^ *(1 )?|$name: |" >&2
    [ "$now" = unknown ] || unknown=0
    case $now in
      unknown)
        unknown=$((unknown + 1))
        tail -n 1 "$COMPLAINTS" >&2
        [ "$unknown" -lt "$MAX_UNKNOWN" ] \
          || give_up "no answer, $unknown times in a row, at last: $(tail -n 1 "$COMPLAINTS")"
        [ -z "$REMOVED" ] || replace "$now" || failed create
        ;;
      SUSPENDED | FAILED)
        [ "$now" != FAILED ] || failed "the request"
        replace "$now" || failed "delete or create"
        ;;
      *running*) own=1 FAILURES=0 REMOVED="" ;;
      "run: "*) # idle, or exited CODE
        case ${own:+"$now"} in
          "" | *idle*) # an exit code from before this watch belongs to another run
            if install && start; then own=1; else failed "install or start"; fi
            ;;
          *) go_on "$now" || break ;;
        esac
        ;;
    esac
    sleep "$POLL_SECONDS"
  done
  echo "$name: the run is done; the slice bills until launch/tpu_vm.sh delete" >&2
}

# Arguments.
command="" name=${TPU_NAME:-} zone=${TPU_ZONE:-} project=${TPU_PROJECT:-} type=${TPU_TYPE:-}
runtime="" spot="" data_disk="" data_device="" extras="" netrc="" worker=0 follow="" module=""
given=""
dry_run=${DRY_RUN:-}
[ "$dry_run" != 0 ] || dry_run=""
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h | help)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
      exit
      ;;
    --dry-run) dry_run=1 ;;
    --spot) spot=1 given="$given spot" ;;
    --follow) follow=--follow given="$given follow" ;;
    --)
      shift
      module=${1:-}
      [ $# -eq 0 ] || shift
      if [ "$module" = cfg-jax ]; then # cfg-jax train is launch.train
        module=launch.${1:-}
        [ $# -eq 0 ] || shift
      fi
      arguments=("$@")
      break
      ;;
    -*)
      flag=${1%%=*}
      [[ $1 == *=* && $VALUED == *" $flag "* ]] || unknown_option "$1" "${2:-}"
      [ -n "${1#*=}" ] || fail "${1}: give a value after the ="
      printf -v "${flag#--}" %s "${1#*=}"
      given="$given ${flag#--}"
      ;;
    *)
      [ -z "$command" ] || fail "unexpected argument '$1': one command, then --option=value"
      command=$1
      ;;
  esac
  shift
done

commands="create wait install start status logs stop restart watch delete"
[ -n "$command" ] || fail "no command: give one of $commands"
case " $commands " in
  *" $command "*) ;;
  *) fail "unknown command '$command': give one of $commands" ;;
esac
[ -n "$name" ] || fail "$command needs --name=NAME, or TPU_NAME"
[ -n "$zone" ] || fail "$command needs --zone=ZONE, or TPU_ZONE"
case $command in
  create | restart | watch)
    [ -n "$type" ] || fail "$command needs --type=TYPE, such as v5litepod-16, or TPU_TYPE"
    [ -n "$runtime" ] || runtime=$(runtime_of "$type")
    ;;
esac
check_options
check_module
[ -n "$dry_run" ] || command -v gcloud >/dev/null \
  || fail "gcloud is not installed: see cloud.google.com/sdk/docs/install, or give --dry-run"
case $netrc in
  "" | /*) ;;
  *) netrc=$PWD/$netrc ;;
esac
cd "$root"
root=.

case $command in
  create | install | start | restart | watch) "$command" ;;
  wait) await ;;
  delete) remove ;;
  status)
    now=$(state)
    [ -n "$dry_run" ] || echo "request: $now"
    run_status
    ;;
  logs) on_worker "$worker" log ${follow:+"$follow"} ;;
  stop) on_worker all stop ;;
esac
