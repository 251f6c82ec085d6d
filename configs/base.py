"""The default of every config field. Experiments override only what differs.

`cfg-jax train --config=base --help` prints the fields with their meaning, as docs/config.md does;
the table is cfg_jax/config/fields.py.
"""

from ml_collections import ConfigDict

from cfg_jax.config import fields


def get_config() -> ConfigDict:
    return fields.defaults()
