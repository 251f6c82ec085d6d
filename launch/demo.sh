#!/usr/bin/env bash
# From nothing to guided samples: makes .venv, trains on handwritten digits, restores the
# checkpoint, samples at several guidance weights, and has a support vector machine judge them.
# A second run reuses the environment and the trained model. WORKDIR=... for another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
make_environment ""
workdir=${WORKDIR:-runs/digits}
python -m launch.train --config=configs/digits.py --workdir="$workdir"
python -m launch.sample --workdir="$workdir" --w=0,1,3 --labels=all
python -m launch.judge --workdir="$workdir"
echo "pictures: $workdir/samples, $workdir/previews"
