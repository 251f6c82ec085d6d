"""Trains a model, resuming from the newest checkpoint in --workdir.

    cfg-jax train --config=digits --workdir=runs/digits \\
        --config.train.batch_size=64

Every field of the config is a flag, --config.SECTION.FIELD; --config=NAME --help lists them with
value, meaning and range. Exit codes:

    0     all steps are done
    1     failure during the run, such as a lost process or a loss that is not finite
    2     user error, such as an invalid config
    75    stopped by SIGTERM; the current step is saved, and the same command resumes
    130   stopped by Ctrl-C, likewise; a second Ctrl-C ends at once, without saving

In the repository, docs/reliability.md lists the failures that a run survives, and docs/profiling.md
shows how to find out where the time of a step goes.
"""

from absl import flags
from ml_collections import config_flags

from .program import run
from .values import profile_steps

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config name, such as digits, or path of a file; folder:PLACE for your pictures; required.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the training run, created if missing; required.", required=True
)
flags.mark_flag_as_required("config")
_PROFILE = flags.DEFINE_string(
    "profile_steps",
    None,
    "FIRST:LAST, such as 10:20, writes a profiler trace of the training steps 10 to 20, both "
    "included, to <workdir>/profile; at most 100 steps. Step 1 includes compilation.",
)


def check() -> None:
    """Raises ValueError for flags that cannot be read, and for a missing library of the config."""
    profile_steps(_PROFILE.value)
    if _CONFIG.value.get("log", {}).get("wandb", "off") != "off":
        from cfg_jax.io import wandb_log

        wandb_log.check_library(_CONFIG.value.log.wandb)  # in every process, before they connect


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.training.run import train

    train(_CONFIG.value, _WORKDIR.value, profile_steps=profile_steps(_PROFILE.value))


if __name__ == "__main__":
    run(main, check=check, saves_at_sigterm=True)
