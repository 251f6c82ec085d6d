"""Programs: `cfg-jax NAME`, or `python -m launch.NAME` in a checkout."""

import importlib
import sys

from . import interrupts

if sys.argv[:1] == ["-m"]:  # a program of this package is started: its imports take seconds
    interrupts.at_once()
if __name__ != "launch":  # installed, where the configs are named cfg_jax_configs
    sys.modules["configs"] = importlib.import_module("cfg_jax_configs")
