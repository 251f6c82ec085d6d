"""Programs for pods: what is read of them, whether they fit, what is kept. No TPU and, but for the
long test, no TPU compiler: what is compiled here is compiled for the suite's processors."""

import contextlib
import importlib.util
import json
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
from cfg_jax.config.validate import to_json
from cfg_jax.preflight import asking, compiling, planning, results, verdict, wording
from cfg_jax.preflight.compiling import Compiled, Memory, lowered_here
from cfg_jax.preflight.programs import Traced, trace
from cfg_jax.preflight.topologies import CHIPS, SHAPES, check_compiler, topology
from cfg_jax.runtime import devices
from cfg_jax.training import run
from tests.tiny import pixel_model, pixel_networks, tiny_classifier, tiny_config

ROOT = Path(__file__).parents[1]


def test_every_pod_slice_has_as_many_devices_as_its_shape_says():
    assert topology("v5e:1x1").num_devices == 1
    assert topology("v5e:4x4").num_devices == topology("v4:2x2x4").num_devices == 16
    assert topology("v4:8x8x16").num_devices == 1024
    assert topology("v3:4x4").num_devices == 32  # two for each chip
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


def test_without_the_compiler_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[tpu\]'"):
        check_compiler()


@pytest.fixture(scope="module")
def traced():
    """The programs of a tiny config on the suite's eight processors."""
    with pixel_networks():
        return {
            program: trace(tiny_config(), program, jax.devices()) for program in ("train", "sample")
        }


def compile_traced(traced):
    with lowered_here(traced) as (_, compiled):
        return compiled()


@pytest.fixture(scope="module")
def found(traced):
    return {program: compile_traced(of) for program, of in traced.items()}


def test_the_step_that_is_compiled_is_the_one_that_trains(traced, data_dir):
    config = tiny_config(**{"data.data_dir": data_dir})
    with pixel_networks():
        source = data.open_source("digits", "train", data_dir=data_dir)
        exp = build.assemble(config, source.shape, source.num_classes)
        optimizer = run.make_optimizer(config)
        state = devices.replicate(jax.jit(run.make_create(config, exp, optimizer))())
        step = devices.pmap_step(run.make_step(exp, optimizer, config))
        batch = devices.split_batch(data.batches(source, seed=0, batch_size=16)[0])
        assert step.lower(state, batch).as_text() == traced["train"].lowered.as_text()


def test_the_sampler_that_is_compiled_is_given_what_a_model_gives_it(traced, monkeypatch):
    model = pixel_model(tiny_config())
    asked = []

    def recorded(plan):
        return lambda shared, batch: asked.append((shared, batch)) or np.zeros(())

    monkeypatch.setattr(model, "_compiled", recorded)
    model.sample_x(jax.random.key(3), labels=np.arange(16) % 10, w=2.0)
    shared, batch = asked[0]
    batch = jax.tree.map(lambda a: a.reshape(8, 2, *a.shape[1:]), batch)
    given, _ = traced["sample"].lowered.in_avals
    wanted = jax.tree.map(lambda a: (jnp.shape(a), a.dtype), (shared, batch))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), given) == wanted


def test_a_training_step_gives_up_its_state_and_sums_gradients_once(traced, found):
    compiled, num_arrays = found["train"], traced["train"].num_donated
    assert verdict.checks(compiled, 8) == {
        "no float64": True,
        "state donated": True,
        "gradients summed once": True,
        "nothing else exchanged": True,
    }
    assert compiled.donated_arguments == num_arrays
    # Parameters, their average, two moments: four trees of the gradients' size and a few numbers.
    assert 0 <= compiled.memory.donated - 4 * compiled.gradient_bytes < 100


def test_a_sampler_exchanges_nothing_and_goes_round_every_step(found):
    assert verdict.checks(found["sample"], 8) == {"no float64": True, "nothing exchanged": True}
    assert found["sample"].unknown_loops == 0
    config = tiny_config(**{"sampling.num_steps": 12})
    with pixel_networks():
        longer = compile_traced(trace(config, "sample", jax.devices()))
    assert longer.flops == 3 * found["sample"].flops > 0  # 4 steps


def pmapped(function, *arguments, num_donated, gradient_bytes):
    lowered = devices.pmap_step(function).lower(*arguments)
    return compile_traced(Traced(lowered, num_donated, gradient_bytes))


def test_a_step_that_keeps_its_state_gathers_or_needs_float64_is_told():
    state = {"w": jnp.zeros((8, 8)), "kept": jnp.zeros(5)}
    batch = jnp.ones((8, 2, 8))

    def careless(state, batch):
        everything = jax.lax.all_gather(batch, devices.AXIS).reshape(-1, 8)
        grads = jax.grad(lambda w: jnp.sum((everything @ w) ** 2))(state["w"])
        grads = jax.lax.pmean(jax.lax.pmean(grads, devices.AXIS) * 2, devices.AXIS)
        return state["w"] - grads, grads.sum()

    compiled = pmapped(careless, state, batch, num_donated=2, gradient_bytes=8 * 8 * 4)
    checks = verdict.checks(compiled, 8)
    assert not checks["state donated"] and not checks["nothing else exchanged"]
    with jax.enable_x64(True):
        wide = pmapped(
            lambda state, batch: (state, jax.lax.pmean(batch.astype("float64").sum(), "data")),
            {"w": jnp.zeros(3, jnp.float32)},
            jnp.ones((8, 2), jnp.float32),
            num_donated=1,
            gradient_bytes=12,
        )
    assert not verdict.checks(wide, 8)["no float64"]


def test_gradients_summed_twice_are_told():
    def summed(size):
        of = {"all-reduce": {"count": 2, "bytes": size}}
        known = dict(seconds=1, gradient_bytes=10**6, num_donated=0, memory=Memory(0, 0, 0, 0, 0))
        return verdict.checks(Compiled(**known, collectives=of), 8)["gradients summed once"]

    assert summed(10**6 + 200) and not summed(2 * 10**6) and not summed(10**6 // 2)


def test_a_classifier_has_a_training_step_alone():
    with pixel_networks():
        compiled = compile_traced(trace(tiny_classifier(), "train", jax.devices()))
    assert all(verdict.checks(compiled, 8).values())
    assert asking.programs_of(tiny_classifier()) == ("train",)


GIB = 2**30


def test_a_message_about_memory_says_how_much_is_needed():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n\nTotal hbm usage >= "
        "20.75G:\n    reserved        258.00M\n    program          20.50G"
    )
    # Without what is reserved, which the 15.75 leave out too.
    assert compiling.out_of_memory(message) == (int(20.5 * GIB), int(15.75 * GIB))
    newer = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (618.67G) exceeds available HBM (15.75G). HLO module: f."
    )
    assert compiling.out_of_memory(newer) == (int(618.67 * GIB), int(15.75 * GIB))
    assert compiling.out_of_memory("INTERNAL: something else") == (None, None)


def test_memory_is_what_is_held_at_the_same_time():
    assert Memory(10, 8, 7, 5, 1).total == 10 + 1 + 5 + 1  # one result is not donated


def needing(size, gradient_bytes=0):
    memory = Memory(0, 0, 0, int(size), 0)
    return Compiled(seconds=1.0, gradient_bytes=gradient_bytes, num_donated=0, memory=memory)


def test_a_program_fits_up_to_the_last_byte():
    assert verdict.fits(needing(100), 100) and not verdict.fits(needing(101), 100)
    lacking = Compiled(1.0, 0, 0, needed_bytes=90, limit_bytes=80)
    assert not verdict.fits(lacking, 100)  # whatever the table says, the compiler gave up


def search(config, program, memory_of, usable):
    """(ways found, changes tried) where memory_of(config) is what a config needs."""
    tried = []

    def attempt(changes):
        tried.append(changes)
        return needing(memory_of(asking.changed(config, changes)), 10)

    ways = verdict.ways_to_fit(
        config,
        needing(memory_of(config), 10),
        num_devices=4,
        usable_bytes=usable,
        program=program,
        attempt=attempt,
    )
    return [way.changes for way in ways], tried


def test_the_mildest_change_of_each_kind_that_fits_is_found():
    config = tiny_config(**{"train.batch_size": 64})

    def memory(config):  # 50 for the state, and for every example at a time 20, or 8 with remat
        at_a_time = config.train.batch_size / 4 / config.train.num_microbatches
        return 50 + at_a_time * (8 if config.model.remat else 20)

    assert memory(config) == 50 + 16 * 20
    ways, tried = search(config, "train", memory, usable=190)
    assert ways == [{"model.remat": True}, {"train.num_microbatches": 4}, {"train.batch_size": 16}]
    # Dividing by 2 would leave 210 at most, so near that it is compiled; what is far off is not.
    assert {"train.num_microbatches": 2} in tried
    ways, _ = search(config, "train", memory, usable=75)
    assert ways == [{"train.num_microbatches": 16}, {"train.batch_size": 4}]
    both = {"model.remat": True, "train.num_microbatches": 16}
    assert search(config, "train", memory, usable=60)[0] == [both]


def test_a_device_with_three_examples_can_compute_them_one_by_one():
    config = tiny_config(**{"train.batch_size": 12})
    ways, _ = search(config, "train", lambda c: 50 + 90 / c.train.num_microbatches, usable=85)
    assert {"train.num_microbatches": 3} in ways


def test_a_sampler_is_only_given_fewer_images():
    config = tiny_config(**{"train.batch_size": 64})
    ways, _ = search(config, "sample", lambda c: 20 * c.train.batch_size / 4, usable=180)
    assert ways == [{"train.batch_size": 32}]


def test_nothing_is_promised_where_the_state_alone_is_too_large():
    ways, tried = search(tiny_config(), "train", lambda config: 1000, usable=49)
    assert ways == []
    assert tried == [{"model.remat": True}]


def stand_in(monkeypatch, made_of):
    """Stands for tracing and compiling; a list of (config, program, pod, code) that was compiled.

    made_of(config) -> what is compiled of it.
    """
    compiled = []

    @contextlib.contextmanager
    def lowered(config, program, where, code):
        def compile_():
            compiled.append((config, program, where.name, code))
            return made_of(config)

        # The model, the batch on a device: not the seed.
        size = config.train.batch_size // where.num_devices
        yield f"{to_json(config)['model']} {size} {program}", compile_

    monkeypatch.setattr(asking, "_lowered", lowered)
    monkeypatch.setattr(asking, "check_compiler", lambda: None)
    return compiled


@pytest.fixture
def compiler(monkeypatch):
    return stand_in(
        monkeypatch,
        lambda config: Compiled(
            seconds=12.5,
            gradient_bytes=100,
            num_donated=3,
            memory=Memory(10 * GIB, GIB, GIB, 2 * GIB, 1000),
            flops=3 * 10**12,
            estimated_cycles=5 * 10**7,
            collectives={"all-reduce": {"count": 2, "bytes": 100}},
            dtypes={"f32": 7},
            donated_arguments=3,
        ),
    )


def preflight(folder, *topologies, config=None, **options):
    """(whether all fits, what is said) of `asking.run`."""
    said = []
    config = config or tiny_config()
    names = topologies or ("v5e:2x2",)
    fits = asking.run(config, "tiny", names, folder=folder, say=said.append, **options)
    return fits, "\n".join(said)


def test_a_program_is_compiled_once_and_found_again(compiler, tmp_path):
    assert preflight(tmp_path)[0]
    assert [program for _, program, *_ in compiler] == ["train", "sample"]
    fits, said = preflight(tmp_path)
    assert fits and len(compiler) == 2
    assert "FITS: 12.00 GiB of the 15.75 GiB" in said
    kept = sorted(path.name.rpartition("_")[0] for path in tmp_path.glob("*.json"))
    assert kept == ["tiny_v5e-2x2_b4_sample", "tiny_v5e-2x2_b4_train"]


def test_another_program_pod_version_flag_or_code_is_compiled_again(
    compiler, tmp_path, monkeypatch
):
    once = dict(programs=["train"])
    preflight(tmp_path, **once)
    preflight(tmp_path, config=tiny_config(**{"model.channels": 16}), **once)
    preflight(tmp_path, "v5e:1x1", **once)
    preflight(tmp_path, **once, code=False)
    for package in ("jax", "jaxlib", "libtpu"):
        versions = lambda name, changed=package: "0.0.0" if name == changed else "1"  # noqa: E731
        monkeypatch.setattr(results.manifest, "version", versions)
        preflight(tmp_path, **once)
    monkeypatch.setenv("XLA_FLAGS", "--xla_tpu_something=1")
    preflight(tmp_path, **once)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_other=1")
    preflight(tmp_path, **once)
    assert len(compiler) == 9
    preflight(tmp_path, **once)
    assert len(compiler) == 9


def test_what_is_not_compiled_does_not_matter(compiler, tmp_path, monkeypatch):
    once = dict(programs=["train"])
    preflight(tmp_path, **once)
    preflight(tmp_path, config=tiny_config(seed=5), **once)
    version = results.manifest.version
    monkeypatch.setattr(
        results.manifest,
        "version",
        lambda name: version(name) if name in ("jax", "jaxlib", "libtpu") else "0.0.0",
    )
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3 --xla_cpu_some=")
    preflight(tmp_path, **once)
    assert len(compiler) == 1


def test_a_program_has_the_same_fingerprint_traced_again_and_another_one_if_it_changes(traced):
    once = traced["train"].described()["fingerprint"]
    with pixel_networks():
        again = trace(tiny_config(), "train", jax.devices())
        changed = trace(tiny_config(**{"optim.learning_rate": 0.5}), "train", jax.devices())
    assert again.described()["fingerprint"] == once != changed.described()["fingerprint"]
    text = traced["train"].lowered.as_text()
    assert "loc(" not in text and str(ROOT) not in text


def test_without_code_a_program_is_kept_beside(monkeypatch, tmp_path):
    planned = Compiled(1.0, 0, 0, memory=Memory(GIB, 0, 0, GIB, None))
    compiled = stand_in(monkeypatch, lambda config: planned)
    once = dict(programs=["train"])
    preflight(tmp_path, **once)
    for _ in range(2):
        fits, said = preflight(tmp_path, code=False, **once)
    assert [code for *_, code in compiled] == [True, False]
    assert fits and "unknown code = 2.00 GiB a device" in said and "none without code" in said
    _, table = preflight(tmp_path, "v5e:2x2", "v5e:1x1", code=False, **once)
    assert table.splitlines()[-1].endswith("| unknown | 2.00 GiB | 15.75 GiB | 0 | - | - | yes |")


# What libtpu 0.0.50.1 wrote of the gradient of a layer, summed over four devices; its own report of
# the same program says "Memory Space: default (color=0)", "Total bytes: 591872".
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
    found = planning.memory(ALLOCATIONS)
    assert found == Memory(262144 + 65536, 262144, 0, 4 * 512, None)
    assert found.total == 591872
    donated = ALLOCATIONS.replace("parameter 0,", "parameter 0, maybe-live-out,")
    assert planning.memory(donated).donated == 262144
    assert planning.memory(donated).total == 591872


def test_a_compiler_that_is_killed_is_not_waited_for(tmp_path):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    theirs.close()
    with pytest.raises(RuntimeError, match="too little memory"):
        planning._wait(ours, tmp_path)


def test_half_a_file_is_not_taken_for_a_result(compiler, tmp_path):
    preflight(tmp_path, programs=["train"])
    (kept,) = tmp_path.glob("*.json")
    kept.write_text(kept.read_text()[:200])
    preflight(tmp_path, programs=["train"])
    assert len(compiler) == 2
    assert results.read(kept).compiled.flops == 3 * 10**12


def test_a_file_says_what_was_found_with_which_versions(compiler, tmp_path):
    preflight(tmp_path, programs=["train"])
    (kept,) = tmp_path.glob("*.json")
    values = json.loads(kept.read_text())
    assert values["versions"]["jax"] == jax.__version__ and "libtpu" in values["versions"]
    assert values["config"]["model"]["channels"] == 8
    assert values["follows"]["fits"] and values["follows"]["needed_bytes"] == 12 * GIB + 1000
    share = values["follows"]["estimated_share_of_peak"]
    assert share == pytest.approx(3e12 / 5e7 / 131072)
    assert results.read(kept).compiled.memory.total == 12 * GIB + 1000


def test_one_pod_is_told_in_full_and_speed_is_called_an_estimate(compiler, tmp_path):
    _, said = preflight(tmp_path, programs=["train"])
    assert "4 devices, 4 examples on each, 16 in all" in said
    assert (
        "10.00 GiB arguments + 1.00 GiB results - 1.00 GiB donated + 2.00 GiB temporaries" in said
    )
    assert "the compiler's estimate, not a measurement: 50.0 M cycles" in said
    assert "46% of the chip's peak" in said
    assert "2 all-reduce of" in said and "state donated: yes" in said


def test_several_pods_and_batches_make_a_table(compiler, tmp_path):
    fits, said = preflight(tmp_path, "v5e:2x2", "v4:2x2x1", batch_sizes=[2, 8], programs=["train"])
    rows = [line for line in said.splitlines() if line.startswith("| tiny")]
    assert fits and len(rows) == 4
    assert [row.split(" | ")[2:5] for row in rows] == [
        ["v5e:2x2", "4", "2"],
        ["v5e:2x2", "4", "8"],
        ["v4:2x2x1", "4", "2"],
        ["v4:2x2x1", "4", "8"],
    ]
    assert [config.train.batch_size for config, *_ in compiler] == [8, 32, 8, 32]
    assert "estimated share of peak" in said


def test_what_does_not_fit_is_told_with_what_would(tmp_path, monkeypatch):
    def made_of(config):
        needed = config.train.batch_size * GIB
        return Compiled(1.0, 0, 0, needed_bytes=needed) if needed > 15 * GIB else needing(needed)

    stand_in(monkeypatch, made_of)
    fits, said = preflight(tmp_path, programs=["sample"])
    assert not fits
    assert "DOES NOT FIT: at least 16.00 GiB of the 15.75 GiB" in said
    assert "fits with 2 images on each device: 8.00 GiB" in said
    fits, said = preflight(tmp_path, programs=["sample"], search=False)
    assert not fits and "one of" not in said


def test_a_config_is_not_called_fitting_for_want_of_the_program_that_was_asked_for(tmp_path):
    with pytest.raises(ValueError, match="--programs=sample: tiny has train, give one of them"):
        preflight(tmp_path, config=tiny_classifier(), programs=["sample"])


def test_a_name_with_a_path_in_it_is_kept_as_any_other(compiler, tmp_path):
    for _ in range(2):
        asking.run(
            tiny_config(),
            "tiny_data_dir=/mnt/my data_" + "x" * 300,
            ["v5e:2x2"],
            folder=tmp_path,
            programs=["train"],
            say=lambda line: None,
        )
    (kept,) = tmp_path.iterdir()
    assert len(compiler) == 1 and kept.name.startswith("tiny_data_dir=-mnt-my-data_xx")


def test_nothing_to_try_is_told_too():
    result = results.Result("big", "v5e:2x2", "train", 4, 1, {}, {}, "", needing(100 * GIB))
    assert "give a larger chip" in wording.ways([], result)


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({"config": tiny_config(**{"train.batch_size": 18})}, "batch_size=18 on 4 devices"),
        ({"batch_sizes": [3], "config": tiny_config(**{"train.num_microbatches": 2})}, "=12 on 4"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_before_anything(
    compiler, tmp_path, options, wanted
):
    with pytest.raises(ValueError, match=wanted):
        preflight(tmp_path / "new", **options)
    assert not compiler and not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything(compiler, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="--out=.*cannot be written"):
        preflight(tmp_path / "file")
    assert not compiler


def test_a_copy_of_a_config_can_be_changed_and_leaves_it_alone():
    config = tiny_config()
    before = to_json(config)
    copy = asking.changed(config, {"model.remat": True, "train.batch_size": 48})
    assert copy.model.remat and copy.train.batch_size == 48
    assert to_json(config) == before


def test_a_mistake_at_the_command_line_costs_one_line(tmp_path):
    command = [
        *(sys.executable, "-m", "launch.preflight", "--config=configs/digits.py"),
        *("--topology=v5e:3x3", f"--out={tmp_path / 'new'}"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "OpenCV" not in line]
    assert done.returncode == 2 and not done.stdout and not (tmp_path / "new").exists()
    assert len(lines) == 1 and lines[0].startswith("error: topology 'v5e:3x3' is unknown")


@pytest.mark.long
def test_the_real_compiler_compiles_for_a_pod_that_is_not_there(tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler is not installed: pip install -e '.[tpu]'")
    command = [
        *(sys.executable, "-m", "launch.preflight", "--config=configs/digits.py"),
        *("--topology=v5e:2x2", f"--out={tmp_path}"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("FITS") == 2 and "NO" not in done.stdout
    found = {of.program: of for of in map(results.read, tmp_path.glob("*.json"))}
    command += ["--code=False", "--programs=train", f"--out={tmp_path / 'planned'}"]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ)
    (path,) = (tmp_path / "planned").glob("*.json")
    planned, compiled = results.read(path).compiled, found["train"].compiled
    for name in ("flops", "collectives", "float64", "donated_arguments", "num_donated"):
        assert getattr(planned, name) == getattr(compiled, name)
    for name in ("arguments", "results", "donated"):
        assert getattr(planned.memory, name) == getattr(compiled.memory, name)
    step, sampler = found["train"].compiled, found["sample"].compiled
    assert all(verdict.checks(step, 4).values()) and all(verdict.checks(sampler, 4).values())
    assert step.estimated_cycles > 0 and sampler.estimated_cycles > step.estimated_cycles
    # 16 images in 32 steps of two networks each, against 16 examples forward and back.
    assert 10 < sampler.flops / step.flops < 64
