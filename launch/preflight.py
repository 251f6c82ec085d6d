"""Compiles a config's programs for a TPU pod slice on a machine without one; prints if they fit.

    pip install -e '.[tpu]'
    python -m launch.preflight --config=configs/imagenet64.py --topology=v5e:4x4
    python -m launch.preflight --config=configs/imagenet64.py \\
        --topologies=v5e:4x4,v4:2x2x4 --batch_sizes=8,16,32 --programs=train

One topology prints devices, memory, FLOPs, communication, the compiler's estimate of cycles and,
where a program does not fit, what would make it fit; the exit code is 1 then. Several topologies or
batch sizes print a table. Results are kept as JSON in --out and found again: no program is compiled
twice. Nothing is run. Most of the time goes into machine code, which --code=False leaves out.
"""

import os
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from launch.program import numbers, run

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "TPU pod slice to compile for, such as v5e:4x4; prints a full report."
)
_TOPOLOGIES = flags.DEFINE_list(
    "topologies", [], "TPU pod slices to compile for, with commas between them; prints a table."
)
_BATCH_SIZES = flags.DEFINE_string(
    "batch_sizes",
    None,
    "Numbers of examples on each device to compile for, with commas between them; prints a table. "
    "If unset, the config's batch size divided by the number of devices.",
)
_PROGRAMS = flags.DEFINE_list(
    "programs", ["train", "sample"], "Programs to compile: train, sample or both."
)
_SEARCH = flags.DEFINE_boolean(
    "search", True, "Compile changes of the config that may make a program fit; not for a table."
)
_CODE = flags.DEFINE_boolean(
    "code",
    True,
    "Generate machine code. Without it compiling takes a fraction of the time, and the size of the "
    "code and the estimated cycles stay unknown.",
)
_OUT = flags.DEFINE_string(
    "out", "runs/preflight", "Folder where results are kept as JSON and found again."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> int:
    del argv
    topologies = [*([_TOPOLOGY.value] if _TOPOLOGY.value else []), *_TOPOLOGIES.value]
    if not topologies:
        raise ValueError("no --topology: give one, such as v5e:4x4, or several as --topologies")
    batch_sizes = _batch_sizes()
    from cfg_jax import preflight

    fits = preflight.run(
        _CONFIG.value,
        _name(),
        topologies,
        folder=Path(_OUT.value).expanduser(),
        batch_sizes=batch_sizes,
        programs=_PROGRAMS.value,
        search=_SEARCH.value,
        code=_CODE.value,
        log=lambda line: print(line, flush=True),
    )
    is_table = len(topologies) * max(len(batch_sizes), 1) > 1
    return 0 if fits or is_table else 1


def _name() -> str:
    """The config file's name and the fields that flags changed."""
    holder = flags.FLAGS["config"]
    changes = config_flags.get_override_values(holder)
    names = [f"{field.split('.')[-1]}={value}" for field, value in changes.items()]
    return "_".join([Path(config_flags.get_config_filename(holder)).stem, *names])


def _batch_sizes() -> list[int]:
    sizes = numbers("batch_sizes")
    if not all(size.is_integer() and size > 0 for size in sizes):
        raise ValueError(f"--batch_sizes={_BATCH_SIZES.value}: need whole numbers above 0")
    return [int(size) for size in sizes]


if __name__ == "__main__":
    # Read when JAX and the compiler are loaded, which `run` does: they search for no TPU, and the
    # compiler does not complain about missing metadata.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        # No chip is used: other processes may compile, or train, at the same time.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    # One process compiles, also on a host of a cluster; the JSON is kept, not the executable.
    flags.FLAGS.set_default("distributed", "off")
    flags.FLAGS.set_default("compilation_cache", "off")
    run(main)
