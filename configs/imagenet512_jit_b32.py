"""ImageNet 512 x 512 by JiT-B/32, 133M parameters (Li & He 2025, arXiv 2511.13720).

    pip install -e '.[tf]' && cfg-jax prepare --dataset=imagenet2012 --manual_dir=...
    cfg-jax train --config=imagenet512_jit_b32 --workdir=runs/imagenet512_jit_b32

Recipe and differences: configs/jit.py. Noise has twice the deviation, 2. Published after 600
epochs: FID 4.02 and IS 271.0 (tables 6 to 8), sampled with 50 Heun steps; the weights' README gives
w = 2.0. Not run here.
"""

from configs import jit


def get_config():
    return jit.get_config("JiT-B/32")
