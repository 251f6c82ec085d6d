#!/usr/bin/env bash
# Trains a model of emojis in colour, draws the guidance strip, measures the distance to the data and
# looks for copies of training images. A second run reuses environment and checkpoints.
#   WORKDIR=...   folder of the run (default runs/emoji)
# Arguments go to launch.train, e.g. a quick try:  bash launch/emoji.sh --config.train.num_steps=300
# Emojis are designed by OpenMoji, license: CC BY-SA 4.0.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
make_environment "[emoji]"
workdir=${WORKDIR:-runs/emoji}
python -m launch.train --config=configs/emoji.py --workdir="$workdir" "$@"
python -m launch.sample --workdir="$workdir" --labels=all --w=0,1,3 --num_steps=64
python -m launch.neighbours --workdir="$workdir" --w=0,1,3 --num_samples=120 --num_steps=32
python -m launch.evaluate --workdir="$workdir" --metrics=fid,is,precision_recall --w=0,1,3 \
  --num_samples=120 --num_steps=32
echo "pictures: $workdir/samples, $workdir/neighbours"
