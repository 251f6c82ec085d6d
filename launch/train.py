"""Trains a model, resuming from the newest checkpoint in --workdir.

    cfg-jax train --config=digits --workdir=runs/digits \\
        --config.train.batch_size=64

Every field of configs/base.py is a flag, --config.SECTION.FIELD. Exits with 0 after all steps, 75
after SIGTERM (saved; the same command resumes), 2 for a user error and 1 for an environment
failure. docs/reliability.md lists the failures that a run survives.
"""

from absl import flags
from ml_collections import config_flags

from .program import run

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.training.run import train

    train(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    run(main, saves_at_sigterm=True)
