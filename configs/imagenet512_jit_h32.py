"""ImageNet 512 x 512 by JiT-H/32, 956M parameters (Li & He 2025, arXiv 2511.13720).

    pip install -e '.[tf]' && cfg-jax prepare --dataset=imagenet2012 --manual_dir=...
    cfg-jax train --config=imagenet512_jit_h32 --workdir=runs/imagenet512_jit_h32

Recipe and differences: configs/jit.py. Dropout 0.2 in the middle half of its blocks. Noise has
twice the deviation, 2. Published after 600 epochs: FID 1.94 and IS 309.1 (tables 6 to 8), sampled
with 50 Heun steps; the weights' README gives w = 1.3. Not run here.
"""

from configs import jit


def get_config():
    return jit.get_config("JiT-H/32")
