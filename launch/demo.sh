#!/usr/bin/env bash
# The whole package on handwritten digits, in five parts: environment, diffusion model, noisy
# classifier, guided samples side by side, and their judgement by a support vector machine.
# Takes about 7 minutes on two CPU cores. A second run reuses environment and checkpoints.
#   WORKDIR=...   folder of the model (default runs/digits)
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
workdir=${WORKDIR:-runs/digits}
classifier=${workdir}_classifier

part() { # part NUMBER TITLE
  printf '\n== %s of 5: %s\n' "$@"
}

part 1 "a virtual environment with the package"
make_environment ""

part 2 "train a diffusion model of digits, with and without labels, in $workdir"
python -m launch.train --config=configs/digits.py --workdir="$workdir"

part 3 "train a classifier of noisy digits, for classifier guidance, in $classifier"
python -m launch.train --config=configs/digits_classifier.py --workdir="$classifier"
python -m launch.evaluate --workdir="$classifier" --accuracy

part 4 "draw digits: classifier-free guidance at w = 0, 1, 3, then classifier guidance"
# The last three columns guide the unconditional model by the classifier at w + 1.
said=$(
  python -m launch.sample --workdir="$workdir" --labels=all --w=0,1,3,-1,-1,-1 \
    --classifier_workdir="$classifier" --classifier_w=0,0,0,1,2,4
)
echo "$said"
picture=$(sed -n '/[.]png$/p' <<<"$said")

part 5 "does a support vector machine read the digits as what they should be?"
python -m launch.judge --workdir="$workdir" --w=0,1,3 --min_accuracy=0.97,0.99,0.99
python -m launch.judge --workdir="$workdir" --w=-1 --samples_per_label=30 \
  --classifier_workdir="$classifier" --classifier_w=2,4,8 --min_accuracy=0.7,0.8,0.9

printf '\npicture of the samples: %s\n' "$picture"
