#!/usr/bin/env bash
# Makes .venv if need be, checks style, and runs the quick tests. Arguments go to pytest:
#   bash launch/test.sh -m long        the tests that take minutes
#   bash launch/test.sh tests/test_guidance.py
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
make_environment "[test]"
ruff check --quiet .
ruff format --check --quiet .
if [[ " $* " == *" -m "* ]]; then
  python -m pytest "$@"
else
  python -m pytest -m "not long" "$@"
fi
