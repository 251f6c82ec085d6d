"""Trains a model, or goes on training one.

    python -m launch.train --config=configs/digits.py --workdir=runs/digits \\
        --config.train.batch_size=64

Every field of configs/base.py is a flag. Started again with the same --workdir, it resumes from
the newest checkpoint there. It ends with code 0 when all steps are done, 75 when SIGTERM stopped it
(saved, start it again to go on), 2 for a mistake and 1 for what the world did; docs/reliability.md
has the list of what a run survives.
"""

from absl import flags
from ml_collections import config_flags

from launch.program import run

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.training.run import train

    train(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    run(main, saves_at_sigterm=True)
