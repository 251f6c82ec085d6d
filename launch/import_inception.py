"""Converts FID Inception weights to .safetensors, which any program reads without running code.

    cfg-jax import_inception --weights=FILE --out=inception.safetensors

FILE is `pt_inception-2015-12-05-6726825d.pth`, which the pytorch-fid project publishes, or
`classify_image_graph_def.pb` of TensorFlow's inception-2015-12-05.tgz (needs
`pip install tensorboard`, not TensorFlow). Nothing is downloaded.
"""

from absl import flags

from cfg_jax.io import files, weight_files
from cfg_jax.metrics import inception_weights

from .program import run

_WEIGHTS = flags.DEFINE_string(
    "weights", None, "File to convert, .pth or .pb; required.", required=True
)
_OUT = flags.DEFINE_string("out", None, "File to write, .safetensors; required.", required=True)


def main(argv: list[str]) -> None:
    del argv
    inception_weights.check_suffix(_OUT.value)
    files.check_file_writable(_OUT.value, "--out")
    state_dict = inception_weights.load_weights(_WEIGHTS.value)
    digest = inception_weights.store(_OUT.value, state_dict)
    print(f"read {_WEIGHTS.value}, sha256 {weight_files.sha256(_WEIGHTS.value)}")
    print(f"wrote {_OUT.value}, sha256 {digest}")


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    run(main)
