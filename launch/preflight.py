"""Compiles a config's programs for a TPU pod slice without a TPU, and prints whether they fit.

    pip install -e '.[tpu]'
    cfg-jax preflight --config=imagenet64 --topology=v5e:4x4
    cfg-jax preflight --config=imagenet64 \\
        --topologies=v5e:4x4,v4:2x2x4 --batch_sizes=8,16,32 --programs=train

One topology prints devices, memory, FLOPs, communication and the compiler's estimate of cycles. If
a program does not fit, it also prints config changes that fit, and exits with 1. Several topologies
or batch sizes print a table. Results are cached as JSON in --out. No program is run.
"""

import os
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from .program import run
from .values import whole_numbers

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config name, such as digits, or path of a file; folder:PLACE for your pictures; required.",
    lock_config=True,
)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "TPU pod slice to compile for, such as v5e:4x4; prints a full report."
)
_TOPOLOGIES = flags.DEFINE_list(
    "topologies", [], "Comma-separated TPU pod slices to compile for; prints a table."
)
_BATCH_SIZES = flags.DEFINE_string(
    "batch_sizes",
    None,
    "Comma-separated numbers of examples per device to compile for; prints a table. If unset, the "
    "config's batch size divided by the number of devices.",
)
_PROGRAMS = flags.DEFINE_list(
    "programs", ["train", "sample"], "Programs to compile: train, sample or both."
)
_SEARCH = flags.DEFINE_boolean(
    "search", True, "Search config changes that make a program fit; ignored for a table."
)
_CODE = flags.DEFINE_boolean(
    "code",
    True,
    "Generate machine code, which takes most of the time; without it the code size and the "
    "estimated cycles are unknown.",
)
_OUT = flags.DEFINE_string("out", "runs/preflight", "Folder in which results are cached as JSON.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> int:
    del argv
    topologies = [*([_TOPOLOGY.value] if _TOPOLOGY.value else []), *_TOPOLOGIES.value]
    if not topologies:
        raise ValueError("no --topology: give one, such as v5e:4x4, or several as --topologies")
    batch_sizes = _batch_sizes()
    from cfg_jax import preflight
    from cfg_jax.io import files

    fits = preflight.run(
        _CONFIG.value,
        _name(),
        topologies,
        folder=files.folder(_OUT.value),
        batch_sizes=batch_sizes,
        programs=_PROGRAMS.value,
        search=_SEARCH.value,
        code=_CODE.value,
        log=lambda line: print(line, flush=True),
    )
    is_table = len(topologies) * max(len(batch_sizes), 1) > 1
    return 0 if fits or is_table else 1


def _name() -> str:
    """The config file's name and the fields overridden by flags."""
    holder = flags.FLAGS["config"]
    changes = config_flags.get_override_values(holder)
    names = [f"{field.split('.')[-1]}={value}" for field, value in changes.items()]
    return "_".join([Path(config_flags.get_config_filename(holder)).stem, *names])


def _batch_sizes() -> list[int]:
    sizes = whole_numbers("batch_sizes")
    if not all(size > 0 for size in sizes):
        raise ValueError(f"--batch_sizes={_BATCH_SIZES.value}: give integers above 0")
    return sizes


if __name__ == "__main__":
    # Set before `run` loads JAX and the compiler, which then search for no TPU and no metadata.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        # Other processes may compile or train at the same time, since no chip is used.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    # One process compiles, even on a cluster; only the JSON is kept, not the executable.
    flags.FLAGS.set_default("distributed", "off")
    flags.FLAGS.set_default("compilation_cache", "off")
    run(main)
