#!/usr/bin/env bash
# From nothing to guided samples: makes .venv, trains a model of handwritten digits and a classifier
# of noisy ones, restores both, samples with classifier-free and with classifier guidance side by
# side, and has a support vector machine judge the samples.
# A second run reuses the environment and what is trained. WORKDIR=... for another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
make_environment ""
workdir=${WORKDIR:-runs/digits}
classifier=${workdir}_classifier
python -m launch.train --config=configs/digits.py --workdir="$workdir"
python -m launch.train --config=configs/digits_classifier.py --workdir="$classifier"
# The second three columns are the unconditional model with the classifier at w + 1.
python -m launch.sample --workdir="$workdir" --labels=all --w=0,1,3,-1,-1,-1 \
  --classifier_workdir="$classifier" --classifier_w=0,0,0,1,2,4
python -m launch.judge --workdir="$workdir"
python -m launch.judge --workdir="$workdir" --w=-1 --samples_per_label=30 \
  --classifier_workdir="$classifier" --classifier_w=2,4,8 --min_accuracy=0.7,0.8,0.9
python -m launch.evaluate --workdir="$classifier" --accuracy
echo "pictures: $workdir/samples, $workdir/previews"
