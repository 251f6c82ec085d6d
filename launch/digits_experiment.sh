#!/usr/bin/env bash
# The paper's sweeps on handwritten digits: trains a run per p_uncond, a feature network and a noisy
# classifier, evaluates samples over w, p_uncond and T, and writes <workdir>/sweep/report.html.
# Takes up to 45 minutes on two CPU cores. The same command resumes.
#   WORKDIR=...   folder of the first run (default runs/digits_sweep)
#   P_UNCOND=...  p_uncond of each run (default "0.1 0.2 0.5")
#   TRAIN=...     flags of launch.train, e.g. TRAIN=--config.train.num_steps=900
# Arguments go to launch.sweep and replace those below, e.g. for a shorter sweep:
#   bash launch/digits_experiment.sh --w=0,0.3,4 --other_w=0,4 --num_steps=16,8
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
make_environment ""
workdir=${WORKDIR:-runs/digits_sweep}
read -ra p_uncond <<<"${P_UNCOND:-0.1 0.2 0.5}"
read -ra train <<<"${TRAIN:-}"
runs=
for p in "${p_uncond[@]}"; do
  run=$workdir
  [ -z "$runs" ] || run=${workdir}_p_uncond_$p
  python -m launch.train --config=configs/digits_sweep.py --workdir="$run" \
    --config.diffusion.p_uncond="$p" "${train[@]}"
  runs=$runs${runs:+,}$run
done
python -m launch.train --config=configs/digits_classifier.py --workdir="${workdir}_classifier" \
  "${train[@]}"
# The baselines are evaluated at T = 8, as is guidance.
python -m launch.sweep --workdir="$runs" --num_samples=5000 --metrics=fid,is,precision_recall \
  --w=0,0.1,0.2,0.3,0.5,1,2,4 --other_w=0,0.2,1 --num_steps=16,4,8,32 --strip_w=0,0.3,1,4 \
  --classifier_workdir="${workdir}_classifier" --classifier_w=0.5,1,2 --older_num_steps=8 \
  --noise_temperature=0.8,0.9 --score_temperature=1.05,1.1 "$@"
