#!/usr/bin/env bash
# Makes .venv if missing, with $EXTRAS of setup.py (default [test]), checks style and runs the quick
# tests, one file at a time on each of up to four cores. Arguments go to pytest:
#   bash launch/test.sh -m long        tests that take minutes
#   bash launch/test.sh tests/test_guidance.py
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
make_environment "${EXTRAS:-[test]}"
ruff check --quiet .
ruff format --check --quiet .
spread=(--numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder)
if [[ " $* " == *" -m "* ]]; then
  python -m pytest "${spread[@]}" "$@"
else
  python -m pytest "${spread[@]}" -m "not long" "$@"
fi
