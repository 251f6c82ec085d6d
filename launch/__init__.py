"""Programs: `cfg-jax NAME`, or `python -m launch.NAME` in a checkout."""

import importlib
import sys

if __name__ != "launch":  # installed, where the configs are named cfg_jax_configs
    sys.modules["configs"] = importlib.import_module("cfg_jax_configs")
