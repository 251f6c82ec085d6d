"""Will this config run on that pod, and how well does the compiler expect it to?

Programs are compiled with the real TPU compiler on a machine without a TPU: nothing is run, and
what is said of speed is the compiler's estimate. `run` does it for a config; `topologies` knows the
pods, `programs` what is compiled, `compiling` compiles it, `hlo` and `costs` read the result,
`verdict` judges it, `results` keeps it, `wording` tells it.
"""

from cfg_jax.preflight.asking import run
from cfg_jax.preflight.programs import PROGRAMS
from cfg_jax.preflight.topologies import check_compiler, topology

__all__ = ["PROGRAMS", "check_compiler", "run", "topology"]
