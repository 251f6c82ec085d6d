# Sourced by the scripts here: makes a virtual environment once, and reuses it. A script with --help
# as its first argument prints the comment at its head and ends.
#   $PYTHON  the interpreter to make it from (default python3)
#   $VENV    its folder (default .venv)

if [ "${1:-}" = --help ]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "launch/$(basename "$0")"
  exit
fi

make_environment() { # make_environment EXTRAS, e.g. "[test]"
  local python=${PYTHON:-python3} venv=${VENV:-.venv} extras=$1
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) is too old: need Python 3.11 or newer; set PYTHON=..." >&2
    exit 2
  fi
  # An interrupted run may have left the folder without pip.
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
  # Installs the requirements once per version of setup.py.
  local wanted installed=$venv/.installed$extras
  wanted=$(cksum <setup.py)
  if [ "$wanted" != "$(cat "$installed" 2>/dev/null)" ]; then
    echo "installing into $venv (about two minutes, once)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".$extras"
    echo "$wanted" | tee "$venv/.installed" >"$installed" # an extra includes the base
  fi
  PATH="$(cd "$venv" && pwd)/bin:$PATH"
  export PATH
}
