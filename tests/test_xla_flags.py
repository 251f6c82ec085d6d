"""The flag of XLA that importing the package sets."""

import os
import subprocess
import sys

import jaxlib
import pytest
from jax._src import xla_bridge

from cfg_jax.runtime import xla_flags
from tests.programs import ROOT

FLAG = "--xla_cpu_experimental_ynn_fusion_type="


def in_another_process(code):
    """Runs code without $XLA_FLAGS."""
    inherited = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("version", "flags", "expected"),
    [
        ("0.10.2", "", FLAG),
        ("0.11.0", "", FLAG),
        ("0.11.2", "", FLAG),
        ("0.12.0", "", FLAG),
        ("0.12.0.1", "", FLAG),
        ("0.10.2", "--xla_dump_to=a --xla_b=1", f"--xla_dump_to=a --xla_b=1 {FLAG}"),
        ("0.10.2", f"{FLAG}dot,reduce", f"{FLAG}dot,reduce"),
        ("0.10.2", f"--xla_b=1 {FLAG} --xla_c=2", f"--xla_b=1 {FLAG} --xla_c=2"),
        ("0.10.1", "", ""),
        ("0.9.0.1", "--xla_b=1", "--xla_b=1"),
        ("0.12.1", "", ""),
        ("0.13.0", "--xla_b=1", "--xla_b=1"),
        ("1.0.0", "", ""),
        ("0.13.0.dev20261101", "", ""),
        ("0.12.1rc0", "", ""),
        ("unknown", "", ""),
    ],
)
def test_the_flag_is_added_for_known_versions_unless_the_user_chose(version, flags, expected):
    assert xla_flags.extended(flags, version) == expected


@pytest.mark.parametrize(
    ("started", "expected"), [(True, "--xla_b=1"), (False, f"--xla_b=1 {FLAG}")]
)
def test_the_flag_is_set_before_a_backend_starts_and_not_after(monkeypatch, started, expected):
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=1")
    monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: started)
    xla_flags.set_flags()
    assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.compat
def test_importing_the_package_after_jax_sets_a_flag_that_this_xla_knows_and_starts_no_backend():
    code = (
        "import os, jax, cfg_jax\n"
        "from jax._src import xla_bridge\n"
        "started = xla_bridge.backends_are_initialized()\n"
        "print(started, os.environ.get('XLA_FLAGS', ''), jax.devices()[0].platform, sep='|')"
    )
    done = in_another_process(code)
    expected = f"False|{xla_flags.extended('', jaxlib.__version__)}|cpu"
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.compat
def test_a_sum_that_crashes_jaxlib_0_10_2_is_computed_once_the_package_is_imported():
    # jax-ml/jax issue 40412: seven dimensions, one of them 1, and a sum over another.
    code = (
        "import jax, cfg_jax\n"
        "x = jax.numpy.ones((3, 1, 2, 2, 8, 8, 8))\n"
        "print(float(jax.jit(lambda a, b: (a * b).sum(axis=3))(x, x).sum()))"
    )
    done = in_another_process(code)
    assert done.stdout.strip() == str(3.0 * 2 * 2 * 8**3), done
