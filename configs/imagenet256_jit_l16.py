"""ImageNet 256 x 256 by JiT-L/16, 459M parameters (Li & He 2025, arXiv 2511.13720).

    pip install -e '.[tf]' && cfg-jax prepare --dataset=imagenet2012 --manual_dir=...
    cfg-jax train --config=imagenet256_jit_l16 --workdir=runs/imagenet256_jit_l16

Recipe and differences: configs/jit.py. Published after 600 epochs: FID 2.36 and IS 298.5 (tables 6
to 8), sampled with 50 Heun steps; the weights' README gives w = 1.4. Not run here.
"""

from configs import jit


def get_config():
    return jit.get_config("JiT-L/16")
