"""The flags of XLA that importing the package sets."""

import os
import subprocess
import sys

import jaxlib
import pytest
from jax._src import xla_bridge

from cfg_jax.runtime import xla_flags
from tests.programs import ROOT

FLAG = "--xla_cpu_experimental_ynn_fusion_type="


BARRIERS = "--xla_disable_hlo_passes=cse_barrier_expander"


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
        ("0.10.2.dev20261101", "", ""),
        ("0.12.1rc0", "", ""),
        ("unknown", "", ""),
    ],
)
def test_the_flag_is_added_for_known_versions_unless_the_user_chose(version, flags, expected):
    assert xla_flags.extended(flags, version, only_cpu=False) == expected


@pytest.mark.parametrize(
    ("version", "flags", "expected"),
    [
        ("0.10.2", FLAG, f"{FLAG} {BARRIERS}"),
        ("0.12.0.1", FLAG, FLAG),
        ("0.10.2", f"{FLAG} --xla_disable_hlo_passes=a", f"{FLAG} --xla_disable_hlo_passes=a"),
    ],
)
def test_barriers_stay_on_cpus_where_the_version_removes_them_too_early(version, flags, expected):
    assert xla_flags.extended(flags, version, only_cpu=True) == expected


@pytest.mark.compat
@pytest.mark.skipif(not xla_flags.only_cpu(), reason="with an accelerator 0.10.2 has its default")
def test_a_sum_behind_a_barrier_is_not_fused_with_what_makes_its_terms():
    code = (
        "import jax, cfg_jax\n"
        "def f(x):\n"
        "    h = 2 * jax.numpy.tanh(x)\n"
        "    return jax.lax.optimization_barrier(h).sum(axis=(1, 2)), h\n"
        "text = jax.jit(f).lower(jax.numpy.ones((8, 32, 32, 64))).compile().as_text()\n"
        "sums = [block for block in text.split('\\n\\n') if ' reduce(' in block]\n"
        "print(len(sums), any(' multiply(' in block for block in sums))"
    )
    done = in_another_process(code)
    assert done.stdout.strip() == "1 False", done


def test_a_package_with_a_backend_of_its_own_is_seen(monkeypatch):
    monkeypatch.setattr(xla_flags, "find_spec", lambda name: None)
    monkeypatch.setattr(xla_flags, "entry_points", lambda group: ())
    assert xla_flags.only_cpu()
    monkeypatch.setattr(xla_flags, "find_spec", lambda name: name == "libtpu" or None)
    assert not xla_flags.only_cpu()


@pytest.mark.parametrize(
    ("started", "expected"), [(True, "--xla_b=1"), (False, f"--xla_b=1 {FLAG}")]
)
def test_the_flag_is_set_before_a_backend_starts_and_not_after(monkeypatch, started, expected):
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=1")
    monkeypatch.setattr(jaxlib, "__version__", "0.12.0.1")
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
    flags = xla_flags.extended("", jaxlib.__version__, only_cpu=xla_flags.only_cpu())
    expected = f"False|{flags}|cpu"
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
