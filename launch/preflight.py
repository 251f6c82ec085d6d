"""Compiles a config's programs for a TPU pod on a machine without one, and says whether they fit.

    pip install -e '.[tpu]'
    python -m launch.preflight --config=configs/imagenet64.py --topology=v5e:4x4
    python -m launch.preflight --config=configs/imagenet64.py \\
        --topologies=v5e:4x4,v4:2x2x4 --batch_sizes=8,16,32 --programs=train

The first prints devices, memory, FLOPs, what is exchanged, the compiler's estimate of cycles, and
what would make it fit if it does not; it exits with 1 then. The others make a table. All of it
lies as JSON in --out, where it is found again: a program is compiled once. Nothing is run. Most of
the time goes into machine code, which --code=False leaves out.
"""

import os
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from launch.program import numbers, run

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "Pod slice to compile for, such as v5e:4x4.")
_TOPOLOGIES = flags.DEFINE_list("topologies", [], "Several of them, for a table.")
_BATCH_SIZES = flags.DEFINE_string(
    "batch_sizes", None, "Examples on each device, for a table; the config's batch if unset."
)
_PROGRAMS = flags.DEFINE_list("programs", ["train", "sample"], "Which of the two.")
_SEARCH = flags.DEFINE_boolean(
    "search", True, "Compile what might make it fit, if it does not; not for a table."
)
_CODE = flags.DEFINE_boolean(
    "code", True, "Generate it; without, a fraction of the time, and no size of code, no cycles."
)
_OUT = flags.DEFINE_string("out", "runs/preflight", "Folder of the results, new and old.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> int:
    del argv
    from cfg_jax import preflight

    topologies = [*([_TOPOLOGY.value] if _TOPOLOGY.value else []), *_TOPOLOGIES.value]
    if not topologies:
        raise ValueError("no --topology: give one, such as v5e:4x4, or several as --topologies")
    for program in _PROGRAMS.value:
        if program not in preflight.PROGRAMS:
            raise ValueError(
                f"--programs={program}: choose some of {', '.join(preflight.PROGRAMS)}"
            )
    batch_sizes = _batch_sizes()
    fits = preflight.run(
        _CONFIG.value,
        _name(),
        topologies,
        folder=Path(_OUT.value).expanduser(),
        batch_sizes=batch_sizes,
        programs=_PROGRAMS.value,
        search=_SEARCH.value,
        code=_CODE.value,
        say=lambda line: print(line, flush=True),
    )
    is_table = len(topologies) * max(len(batch_sizes), 1) > 1
    return 0 if fits or is_table else 1


def _name() -> str:
    """The config file's, with the fields that flags changed."""
    holder = flags.FLAGS["config"]
    changes = config_flags.get_override_values(holder)
    names = [f"{field.split('.')[-1]}={value}" for field, value in changes.items()]
    return "_".join([Path(config_flags.get_config_filename(holder)).stem, *names])


def _batch_sizes() -> list[int]:
    if _BATCH_SIZES.value is None:
        return []
    sizes = numbers("batch_sizes")
    if not all(size.is_integer() and size > 0 for size in sizes):
        raise ValueError(f"--batch_sizes={_BATCH_SIZES.value}: need whole numbers above 0")
    return [int(size) for size in sizes]


if __name__ == "__main__":
    # Read when JAX and the compiler are loaded, which `run` does: no TPU is looked for, and the
    # compiler is told what it would complain of not finding.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        # No chip is touched: others may compile, or train, at the same time.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    # One process compiles, on a host of a cluster too; what is kept is the JSON.
    flags.FLAGS.set_default("distributed", "off")
    flags.FLAGS.set_default("compilation_cache", "off")
    run(main)
