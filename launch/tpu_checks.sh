# Sourced by tpu_vm.sh: refuses user errors before a command is run.
# shellcheck shell=bash disable=SC2154  # the arguments are variables of tpu_vm.sh

fail() {
  echo "error: $*" >&2
  exit 2
}

VALUED=" --name --zone --project --type --runtime --data_disk --data_device --worker "
VALUED="$VALUED--extras --netrc "
SWITCHES=" --spot --follow --dry-run "

unknown_option() { # unknown_option WORD NEXT: of a word that is no option, given before NEXT
  local flag=${1%%=*} value=${2:-}
  local meant=${flag#--}
  meant=--${meant//-/_}
  [ "$meant" != --dry_run ] || meant=--dry-run
  case $VALUED$SWITCHES in
    *" $meant "*) ;;
    *) fail "unknown option $1: launch/tpu_vm.sh --help lists them" ;;
  esac
  [ "$meant" = "$flag" ] || fail "unknown option $flag: did you mean $meant"
  case $SWITCHES in
    *" $flag "*) fail "$1: write $flag, without a value" ;;
  esac
  case $value in
    -* | "") value=VALUE ;;
  esac
  fail "$flag has no value: write $flag=$value"
}

check_options() { # that the command takes them, and that their values have the right form
  local takes="" flag extra
  case $command in
    create) takes="type runtime spot data_disk" ;;
    install) takes="extras netrc" ;;
    start) takes="data_disk data_device" ;;
    logs) takes="worker follow" ;;
    restart | watch) takes="type runtime spot data_disk data_device extras netrc" ;;
  esac
  for flag in $given; do
    case " name zone project $takes " in
      *" $flag "*) ;;
      *) fail "--$flag has no effect on $command: leave it out" ;;
    esac
  done
  case $worker in
    *[!0-9]*) fail "--worker=$worker: give the number of a worker, such as 0" ;;
  esac
  case ${data_disk:-none} in
    none | projects/?*/zones/"$zone"/disks/?*) ;;
    *) fail "--data_disk=$data_disk: give projects/PROJECT/zones/$zone/disks/NAME" ;;
  esac
  [ -z "$data_device" ] || [ -n "$data_disk" ] \
    || fail "--data_device=$data_device needs --data_disk"
  for extra in ${extras//,/ }; do
    grep -q "^ *\"$extra\": " "$root/setup.py" || fail "--extras=$extra: setup.py has no such extra"
  done
  [ -z "$netrc" ] || [ -n "$dry_run" ] || [ -f "$netrc" ] \
    || fail "--netrc=$netrc is no file: give the one that wandb login writes, \$HOME/.netrc"
}

check_module() {
  case $command in
    start | restart | watch) ;;
    *)
      [ -z "$module" ] || fail "$command runs no module: leave out -- $module"
      return
      ;;
  esac
  case $module in
    launch.?*)
      [ -e "$root/launch/${module#launch.}.py" ] \
        || fail "there is no program $module: give one such as launch.train"
      ;;
    "") fail "$command needs a module to run: -- launch.train --config=... --workdir=..." ;;
    *) fail "cannot run '$module': give a module such as launch.train after --" ;;
  esac
  check_arguments
}

check_arguments() { # arguments of the module that are wrong on every worker
  local i word flag value
  for ((i = 0; i < ${#arguments[@]}; i++)); do
    word=${arguments[i]}
    case $word in
      --*=*) ;;
      *) word=$word=${arguments[i + 1]:-} ;; # a flag may have its value in the next word
    esac
    flag=${word%%=*} value=${word#*=}
    case $flag in
      --dry_run) fail "$flag: did you mean --dry-run; put it before --" ;;
      --distributed | --coordinator_address | --num_processes | --process_id)
        fail "$flag: leave it out, tpu_vm.sh sets it"
        ;;
      --config) check_config "$value" ;;
      --workdir | --*_workdir | --out) check_folder "$flag" "$value" ;;
      --name) ;; # of some modules too
      --?*)
        case $VALUED$SWITCHES in
          *" $flag "*) fail "$flag is an option of tpu_vm.sh: put it before --" ;;
        esac
        ;;
    esac
  done
}

check_config() { # check_config NAME|PATH, perhaps with :ARGUMENT
  local path=${1%%:*} changed
  [ ! -e "$root/configs/$path.py" ] || path=configs/$path.py
  case $path in
    /* | ../* | */../*) path="" ;;
  esac
  [ -f "$root/$path" ] \
    || fail "--config=$1: give a config by name, or a file in this repository: configs/digits.py"
  changed=$(uncommitted "$path" 2>/dev/null) || changed=""
  [ -z "$changed" ] \
    || echo "warning: $path has changes that are not committed; install leaves them out" >&2
}

check_folder() { # check_folder FLAG FOLDER
  case $2 in
    gs://?* | /*) ;;
    *)
      fail "$1=$2: each worker would have its own folder: give gs://BUCKET/FOLDER" \
        "or an absolute path of a shared disk"
      ;;
  esac
}

uncommitted() { # uncommitted [PATH]: new, changed and, for a path, ignored files as one line
  git -C "$root" status --porcelain ${1:+--ignored -- "$1"} \
    | cut -c 4- | paste -sd , - | sed 's/,/, /g'
}
