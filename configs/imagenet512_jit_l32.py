"""ImageNet 512 x 512 by JiT-L/32, 462M parameters (Li & He 2025, arXiv 2511.13720).

    pip install -e '.[tf]' && cfg-jax prepare --dataset=imagenet2012 --manual_dir=...
    cfg-jax train --config=imagenet512_jit_l32 --workdir=runs/imagenet512_jit_l32

Recipe and differences: configs/jit.py. Noise has twice the deviation, 2. Published after 600
epochs: FID 2.53 and IS 299.9 (tables 6 to 8), sampled with 50 Heun steps; the weights' README gives
w = 1.5. Not run here.
"""

from configs import jit


def get_config():
    return jit.get_config("JiT-L/32")
