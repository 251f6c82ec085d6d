"""Preflight from a config to its report: programs, cache, remedies.

CPU devices stand in for a pod's devices; only the long test uses the TPU compiler."""

import contextlib
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.preflight import cache, check, compile
from cfg_jax.preflight.programs import Facts, forwards, trace
from cfg_jax.preflight.topologies import CHIPS, SHAPES, check_compiler, topology
from cfg_jax.preflight.verdict import Memory
from cfg_jax.runtime import devices
from cfg_jax.training import run
from tests.programs import run_program
from tests.tiny import pixel_model, pixel_networks, tiny_classifier, tiny_config

ROOT = Path(__file__).parents[1]
GIB = 2**30


def test_every_pod_slice_has_as_many_devices_as_its_shape_says():
    assert topology("v5e:1x1").num_devices == 1
    assert topology("v5e:4x4").num_devices == topology("v4:2x2x4").num_devices == 16
    assert topology("v4:8x8x16").num_devices == 1024
    assert topology("v3:4x4").num_devices == 32  # two per chip
    names = [f"{kind}:{shape}" for kind in SHAPES for shape in SHAPES[kind]]
    assert len(names) == len({topology(name) for name in names})


@pytest.mark.parametrize("kind, published", [("v3", 9.4e8), ("v4", 1.05e9), ("v5e", 1.5e9)])
def test_peak_and_matrix_units_of_a_chip_give_its_published_clock(kind, published):
    assert abs(CHIPS[kind].clock / published - 1) < 0.01


@pytest.mark.parametrize("name", ["v5e:3x3", "v9:2x2", "v5e", "", "v4:4x4"])
def test_an_unknown_pod_slice_is_refused_with_those_that_are_known(name):
    with pytest.raises(ValueError, match=r"is unknown: choose one of .*v4:2x2x4.*v5e:4x4") as told:
        topology(name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "meant"),  # from the tables of Cloud TPU's pages "TPU v3" to "TPU v6e"
    [
        ("v5litepod-16", "v5e:4x4"),
        ("v5e-16", "v5e:4x4"),
        ("v5litepod-8", "v5e:2x4"),
        ("v6e-256", "v6e:16x16"),
        ("v4-8", "v4:2x2x1"),
        ("v4-32", "v4:2x2x4"),
        ("v5p-32", "v5p:2x2x4"),
        ("v3-32", "v3:4x4"),
    ],
)
def test_the_name_of_a_slice_is_answered_with_its_topology(name, meant):
    with pytest.raises(ValueError, match=rf"'{name}' is the name of a slice: .* {meant}$"):
        topology(name)


@pytest.mark.parametrize("name", ["v5litepod-17", "v4-16x", "v5e-", "v4-1"])
def test_the_name_of_no_slice_is_answered_with_all_topologies(name):
    with pytest.raises(ValueError, match="is unknown: choose one of"):
        topology(name)


def test_without_the_compiler_the_error_has_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install '\.\[tpu\]'"):
        check_compiler()


@contextlib.contextmanager
def pod():
    """Replaces the devices of any pod slice by CPU devices, and large networks by small ones."""
    with pytest.MonkeyPatch.context() as patch, pixel_networks():
        patch.setattr(compile, "devices", lambda where: jax.devices())
        patch.setattr(check, "check_compiler", lambda: None)
        yield


def preflight(folder, config):
    """(whether all programs fit, logged lines) of `check.run`."""
    lines = []
    fits = check.run(config, "tiny", ["v5e:2x2"], folder=folder, log=lines.append)
    return fits, "\n".join(lines)


@pytest.fixture(scope="module")
def traced():
    """{program: (lowered, facts)} of a tiny config on CPU devices."""
    with pixel_networks():
        return {
            program: trace(tiny_config(), program, jax.devices()) for program in ("train", "sample")
        }


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """(folder, whether all programs fit, logged lines) of a preflight on CPU devices."""
    folder = tmp_path_factory.mktemp("preflight")
    with pod():
        return folder, *preflight(folder, tiny_config())


@pytest.fixture(scope="module")
def compiled(once):
    return {result.program: result.compiled for result in map(cache.read, once[0].iterdir())}


def test_the_step_that_is_compiled_is_the_one_that_trains(traced, data_dir):
    config = tiny_config(**{"data.data_dir": data_dir})
    with pixel_networks():
        source = data.open_source("digits", "train", data_dir=data_dir)
        exp = build.assemble(config, source.shape, source.num_classes)
        optimizer = run.make_optimizer(config)
        state = devices.replicate(jax.jit(run.make_create(config, exp, optimizer))())
        step = devices.pmap_step(run.make_step(exp, optimizer, config))
        batch = devices.split_batch(data.batches(source, seed=0, batch_size=16)[0])
        assert step.lower(state, batch).as_text() == traced["train"][0].as_text()


def test_the_sampler_that_is_compiled_is_given_what_a_model_gives_it(traced, monkeypatch):
    model = pixel_model(tiny_config())
    asked = []

    def recorded(spec):
        return lambda shared, batch: asked.append((shared, batch)) or np.zeros(())

    monkeypatch.setattr(model, "_compiled", recorded)
    model.sample_x(jax.random.key(3), labels=np.arange(16) % 10, w=2.0)
    shared, batch = asked[0]
    count = jax.device_count()
    batch = jax.tree.map(lambda a: a.reshape(count, 16 // count, *a.shape[1:]), batch)
    given, _ = traced["sample"][0].in_avals
    wanted = jax.tree.map(lambda a: (jnp.shape(a), a.dtype), (shared, batch))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), given) == wanted


def test_a_program_traced_again_has_the_same_fingerprint_and_a_changed_one_another(traced):
    lowered, facts = traced["train"]
    with pixel_networks():
        _, again = trace(tiny_config(**{"data.data_dir": "/elsewhere"}), "train", jax.devices())
        _, fewer = trace(tiny_config(), "train", jax.devices()[:1])
        _, other = trace(tiny_config(**{"optim.b1": 0.5}), "train", jax.devices())
    assert again == facts
    assert len({facts.fingerprint, fewer.fingerprint, other.fingerprint}) == 3
    assert "loc(" not in lowered.as_text() and str(ROOT) not in lowered.as_text()


def test_a_training_step_donates_its_state_and_sums_gradients_once(traced, compiled):
    step, facts = compiled["train"], traced["train"][1]
    assert step.checks(jax.device_count()) == {
        "no float64": True,
        "state donated": True,
        "gradients summed once": True,
        "nothing else exchanged": True,
    }
    assert step.donated_arguments == step.num_donated == facts.num_donated
    # Parameters, EMA and two moments: four trees of the gradients' size and a few scalars.
    assert 0 <= step.memory.donated - 4 * step.gradient_bytes < 100


def test_a_step_with_a_divided_state_holds_less_and_scatters_its_gradients_once(compiled):
    config, count = tiny_config(**{"train.shard_state": True}), jax.device_count()
    with pod(), compile.lower(config, "train", topology("v5e:2x2"), code=True) as step:
        found = step.compile()
    assert len(found.checks(count)) == 5 and all(found.checks(count).values())
    assert set(found.collectives) == {"all-gather", "all-reduce", "reduce-scatter"}
    # Parameters whole, EMA and two moments in parts, and a few scalars.
    held = found.gradient_bytes + 3 * found.scattered_bytes / count
    assert 0 <= found.memory.donated - held < 100
    saved = compiled["train"].memory.arguments - found.memory.arguments
    assert saved == pytest.approx(3 * (1 - 1 / count) * found.gradient_bytes, rel=0.05)


def test_forward_passes_are_those_of_the_calls_and_the_interval_saves_half_of_some():
    steps = {"sampling.num_steps": 16, "sampling.solver": "unipc_2", "sampling.grid": "uniform"}
    assert forwards(tiny_config(**steps)) == (
        "16 network calls, 16 of them guided: 32 forward passes"
    )
    # Evenly spaced from -9 to 9: 4 of 16 calls are in [-2, 2).
    langevin = {"sampling.solver": "pcg", "sampling.grid": "uniform", "sampling.num_steps": 65}
    assert "fewer" not in forwards(tiny_config(**langevin))
    assert forwards(tiny_config(**steps, **{"sampling.interval": (-2.0, 2.0)})) == (
        "16 network calls, 4 of them guided: 20 forward passes, 38% fewer than without an interval"
    )


def test_a_sampler_communicates_nothing_and_counts_every_step(compiled):
    sampler = compiled["sample"]
    assert sampler.checks(jax.device_count()) == {"no float64": True, "nothing exchanged": True}
    assert sampler.unknown_loops == 0
    config = tiny_config(**{"sampling.num_steps": 12})
    with pod(), compile.lower(config, "sample", topology("v5e:2x2"), code=True) as longer:
        assert longer.compile().flops == 3 * sampler.flops > 0  # 4 steps


def test_a_classifier_has_a_training_step_alone():
    assert check.programs_of(tiny_classifier()) == ("train",)
    with pod(), compile.lower(tiny_classifier(), "train", topology("v5e:2x2"), code=True) as step:
        assert all(step.compile().checks(jax.device_count()).values())


def pmapped(function, *arguments, num_donated, gradient_bytes):
    lowered = devices.pmap_step(function).lower(*arguments)
    return compile.in_full(lowered, Facts.of(lowered, num_donated, gradient_bytes)).compile()


def test_a_step_that_keeps_its_state_gathers_or_needs_float64_fails_its_checks():
    state = {"w": jnp.zeros((8, 8)), "kept": jnp.zeros(5)}
    count = jax.device_count()
    batch = jnp.ones((count, 2, 8))

    def careless(state, batch):
        everything = jax.lax.all_gather(batch, devices.AXIS).reshape(-1, 8)
        grads = jax.grad(lambda w: jnp.sum((everything @ w) ** 2))(state["w"])
        grads = jax.lax.pmean(jax.lax.pmean(grads, devices.AXIS) * 2, devices.AXIS)
        return state["w"] - grads, grads.sum()

    checks = pmapped(careless, state, batch, num_donated=2, gradient_bytes=8 * 8 * 4).checks(count)
    assert not checks["state donated"] and not checks["nothing else exchanged"]
    with jax.enable_x64(True):
        wide = pmapped(
            lambda state, batch: (state, jax.lax.pmean(batch.astype("float64").sum(), "data")),
            {"w": jnp.zeros(3, jnp.float32)},
            jnp.ones((count, 2), jnp.float32),
            num_donated=1,
            gradient_bytes=12,
        )
    assert not wide.checks(count)["no float64"]


def test_an_error_about_memory_gives_the_bytes_that_are_needed():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n\nTotal hbm usage >= "
        "20.75G:\n    reserved        258.00M\n    program          20.50G"
    )
    # Without reserved memory, which the 15.75 exclude too.
    assert compile.out_of_memory(message) == (int(20.5 * GIB), int(15.75 * GIB))
    newer = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (618.67G) exceeds available HBM (15.75G). HLO module: f."
    )
    assert compile.out_of_memory(newer) == (int(618.67 * GIB), int(15.75 * GIB))
    assert compile.out_of_memory("INTERNAL: something else") == (None, None)


def test_a_compiler_that_lacks_memory_is_a_finding_and_another_failure_an_error():
    class Failing:
        def __init__(self, message):
            self.message = message

        def compile(self):
            raise jax.errors.JaxRuntimeError(self.message)

    facts = Facts("0", float64=True, num_donated=3, gradient_bytes=7, calls=0)
    found = compile.in_full(Failing("Used 20.50G of 15.75G hbm"), facts).compile()
    assert found.memory is None and not found.fits(30 * GIB) and found.num_donated == 3
    assert (found.total_bytes, found.limit_bytes) == (int(20.5 * GIB), int(15.75 * GIB))
    assert found.float64 and found.gradient_bytes == 7
    with pytest.raises(RuntimeError, match="INTERNAL: something"):
        compile.in_full(Failing("INTERNAL: something"), facts).compile()


# Output of libtpu 0.0.50.1 for the gradient of a layer, summed over four devices. Its own report of
# the program has "Memory Space: default (color=0)", "Total bytes: 591872".
ALLOCATIONS = """\
BufferAssignment:
allocation 0: size 512, page 0, thread-local:
 value: <2 add.0 @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 262144, page 0, parameter 0, shape |f32[256,256]| at ShapeIndex {}:
allocation 2: size 65536, page 0, parameter 1, shape |f32[1,64,256]| at ShapeIndex {}:
allocation 3: size 512, page 0, thread-local:
allocation 4: size 262144, page 0, output shape is |f32[1,256,256]|, maybe-live-out:
 value: <39 multiply_bitcast_fusion @0> (size=262144,offset=0): f32[1,256,256]{2,1,0:T(8,128)}
allocation 5: size 512, page 0, thread-local:
allocation 6: size 4, color 2, page 0, preallocated-temp:
allocation 7: size 512, page 0, preallocated-temp:
allocation 8: size 786432, color 1, page 0, preallocated-temp:
"""


def test_memory_is_read_from_where_the_compiler_puts_arrays():
    found = compile.planned_memory(ALLOCATIONS)
    assert found == Memory(262144 + 65536, 262144, 0, 4 * 512, None)
    assert found.total == 591872
    donating = ALLOCATIONS.replace("parameter 0,", "parameter 0, maybe-live-out,")
    assert compile.planned_memory(donating).donated == 262144
    assert compile.planned_memory(donating).total == 591872


def test_a_compiler_that_is_killed_is_not_waited_for(tmp_path):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    theirs.close()
    with pytest.raises(RuntimeError, match="too little memory"):
        compile._wait(ours, tmp_path)


def test_an_error_in_the_compilers_process_is_raised_here(tmp_path):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    theirs.send(ValueError("image_size"))
    with pytest.raises(ValueError, match="image_size"):
        compile._wait(ours, tmp_path)


def test_a_program_is_compiled_once_and_found_again_whatever_was_not_compiled(once):
    folder, fits, lines = once
    assert fits and lines.count("compiling") == lines.count("FITS: ") == 2
    names = sorted(path.name.rpartition("_")[0] for path in folder.iterdir())
    assert names == ["tiny_v5e-2x2_b4_sample", "tiny_v5e-2x2_b4_train"]
    with pod():
        config = tiny_config(**{"train.num_steps": 5, "data.data_dir": "/elsewhere"})
        fits, lines = preflight(folder, config)
    assert fits and "compiling" not in lines and lines.count("found ") == 2
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({"topologies": ["v5e:3x3"]}, "topology 'v5e:3x3' is unknown"),
        ({"programs": ["draw"]}, "programs=draw: tiny has train and sample"),
        ({"programs": ["sample"], "config": tiny_classifier()}, "programs=sample: tiny has train"),
        ({"config": tiny_config(**{"train.batch_size": 18})}, "batch_size=18 on 4 devices"),
        ({"batch_sizes": [3], "config": tiny_config(**{"train.num_microbatches": 2})}, "=12 on 4"),
        ({"config": tiny_config(**{"model.channels": 0})}, "model.channels=0"),
        ({"config": tiny_config(**{"data.name": "no_such_data"})}, "no_such_data"),
        ({"config": tiny_config(**{"diffusion.low_res_size": 3})}, "low_res_size=3"),
        ({"folder": "file/below"}, "cannot be written"),
        ({"folder": "file"}, "cannot be written"),
    ],
)
def test_a_usage_error_is_raised_before_anything_is_traced_or_made(options, wanted, tmp_path):
    (tmp_path / "file").write_text("kept")
    lines = []
    arguments = {"config": tiny_config(), "topologies": ["v5e:2x2"], "folder": "new"} | options
    arguments["folder"] = tmp_path / arguments["folder"]
    with pytest.raises(ValueError, match=wanted):
        check.run(**arguments, name="tiny", log=lines.append)
    assert not lines and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_usage_error_at_the_command_line_costs_one_line(tmp_path):
    out = tmp_path / "new"
    arguments = "--config=configs/digits.py", "--topology=v5e:3x3", f"--out={out}"
    done = run_program("launch.preflight", *arguments)
    lines = [line for line in done.stderr.splitlines() if "OpenCV" not in line]
    assert done.returncode == 2 and not done.stdout and not out.exists()
    assert len(lines) == 1 and lines[0].startswith("error: topology 'v5e:3x3' is unknown")


def preflighted(*arguments):
    """Runs launch.preflight in an interpreter that imports JAX after setting its environment."""
    command = [sys.executable, "-m", "launch.preflight", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)


@pytest.mark.long
@pytest.mark.tpu
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler is not installed: pip install '.[tpu]'",
)
def test_the_real_compiler_compiles_for_a_pod_that_is_not_there(tmp_path):
    tiny = "--config=configs/digits.py", "--topology=v5e:2x2", "--config.model.channels=8"
    tiny += "--config.model.head_channels=8", "--config.model.norm_groups=4"
    done = preflighted(*tiny, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("FITS") == 2 and "NO" not in done.stdout
    found = {result.program: result.compiled for result in map(cache.read, tmp_path.glob("*.json"))}
    step, sampler = found["train"], found["sample"]
    assert all(step.checks(4).values()) and all(sampler.checks(4).values())
    assert step.estimated_cycles > 0 and sampler.estimated_cycles > step.estimated_cycles
    # 16 images in 32 steps of two network calls, against 16 examples forward and backward.
    assert 10 < sampler.flops / step.flops < 64

    without = *tiny, "--code=False", "--programs=train", f"--out={tmp_path / 'planned'}"
    done = preflighted(*without)
    assert done.returncode == 0 and "compiling train" in done.stdout, done.stderr
    (path,) = (tmp_path / "planned").glob("*.json")
    planned = cache.read(path).compiled
    for name in ("flops", "collectives", "float64", "donated_arguments", "num_donated"):
        assert getattr(planned, name) == getattr(step, name)
    for name in ("arguments", "results", "donated"):
        assert getattr(planned.memory, name) == getattr(step.memory, name)
    done = preflighted(*without)
    assert done.returncode == 0 and "compiling" not in done.stdout, done.stderr
