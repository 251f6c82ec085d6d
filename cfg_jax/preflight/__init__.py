"""Will this config run on that pod slice, and how fast does the compiler expect it to be?

`run` compiles a config's programs with the real TPU compiler on a machine without a TPU. Nothing is
executed: cycles are the compiler's estimate.
"""

from cfg_jax.preflight.check import run
from cfg_jax.preflight.programs import PROGRAMS
from cfg_jax.preflight.topologies import check_compiler, topology

__all__ = ["PROGRAMS", "check_compiler", "run", "topology"]
