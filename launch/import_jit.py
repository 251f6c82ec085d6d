"""Imports a checkpoint of JiT, a transformer on pixels, as a run's folder.

    cfg-jax import_jit --checkpoint=checkpoint-last.pth --name=JiT-B/16 --workdir=runs/jit_b16

The file is one that the original program writes, or a .safetensors of its weights; docs/jit.md has
the layouts. `cfg-jax sample` and `cfg_jax.load` then take --workdir. PyTorch is not needed.
"""

from absl import flags

from cfg_jax.interop import jit

from .jit_run import import_checkpoint, sampling
from .program import run

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "File to import, .pth, .pt or .safetensors; required.", required=True
)
_NAME = flags.DEFINE_string(
    "name",
    None,
    "Published name: JiT-B/16, JiT-B/32, JiT-L/16, JiT-L/32, JiT-H/16 or JiT-H/32; required.",
    required=True,
)
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    list(jit.SETS),
    "Set of weights to import from a file with several: averages with decay 0.9999 (ema1, the "
    "default) or 0.9996 (ema2), or those of the last step (model).",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "New folder of the run to write; required.", required=True
)


def main(argv: list[str]) -> None:
    del argv
    name, workdir = _NAME.value, _WORKDIR.value
    print(f"reading {_CHECKPOINT.value}", flush=True)
    count = import_checkpoint(_CHECKPOINT.value, name, workdir, _WEIGHTS.value)
    print(f"{workdir}: {name}, {count:,} parameters\n{sampling(name, workdir)}")


if __name__ == "__main__":
    flags.FLAGS.set_default("distributed", "off")
    flags.FLAGS.set_default("compilation_cache", "off")
    run(main)
