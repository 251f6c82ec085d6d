#!/usr/bin/env bash
# Makes .venv, trains a model of handwritten digits and a noisy classifier, samples with
# classifier-free and with classifier guidance side by side, and judges the samples with a support
# vector machine. A second run reuses environment and checkpoints. WORKDIR=... sets the folder.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
make_environment ""
workdir=${WORKDIR:-runs/digits}
classifier=${workdir}_classifier
python -m launch.train --config=configs/digits.py --workdir="$workdir"
python -m launch.train --config=configs/digits_classifier.py --workdir="$classifier"
# The last three columns guide the unconditional model by the classifier at w + 1.
python -m launch.sample --workdir="$workdir" --labels=all --w=0,1,3,-1,-1,-1 \
  --classifier_workdir="$classifier" --classifier_w=0,0,0,1,2,4
python -m launch.judge --workdir="$workdir"
python -m launch.judge --workdir="$workdir" --w=-1 --samples_per_label=30 \
  --classifier_workdir="$classifier" --classifier_w=2,4,8 --min_accuracy=0.7,0.8,0.9
python -m launch.evaluate --workdir="$classifier" --accuracy
echo "pictures: $workdir/samples, $workdir/previews"
