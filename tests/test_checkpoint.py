"""Checkpoints with faults injected into their files; expected arrays are NumPy copies."""

import contextlib
import gc
import json
import resource
import shutil
import threading
import zlib
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from cfg_jax.storage import checkpoint, manifest
from cfg_jax.storage.checkpoint import Checkpoints, SaveError, load_ema
from cfg_jax.storage.manifest import MismatchError

# Orbax drops coroutines when a read or a write fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = {"model": {"width": 64, "mults": (1, 2)}, "lr": 3e-4}
META = {"data": "digits-1797"}
ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
OTHER = jax.sharding.SingleDeviceSharding(jax.devices()[1])
ALL = jax.sharding.NamedSharding(
    jax.sharding.Mesh(np.array(jax.devices()), ("data",)), jax.sharding.PartitionSpec()
)


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any


def make_params(seed, width=64):
    """Mostly random words, which are stored uncompressed: no codec detects a bit flip."""
    rng = np.random.default_rng(seed)
    return {
        "dense": {
            "kernel": rng.normal(size=(width, 16)).astype(np.float32),
            "bias": rng.normal(size=(7,)).astype(jnp.bfloat16),
        },
        "scale": np.float32(rng.normal()),
        "noise": rng.integers(-(2**31), 2**31, (128, 128), dtype=np.int32),
        "blocks": [rng.normal(size=(2,)).astype(np.float32) for _ in range(2)],
    }


@jax.jit
def first_update(grads):
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return tx.update(grads, tx.init(grads))[1]


def make_trees(seed, width=64, sharding=ONE):
    """A state with Adam moments after one step, and an EMA; all leaves differ between seeds."""
    params = make_params(seed, width)
    floats = {name: params[name] for name in ("dense", "scale", "blocks")}
    state = State(step=np.int32(seed), params=params, opt_state=first_update(floats))
    return jax.device_put((state, make_params(seed + 1000, width)), sharding)


def abstract(tree, sharding=ONE):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def host_copy(tree):
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(checkpoints, step, seed=None, *, loss=1.0, **trees_options):
    trees = make_trees(step if seed is None else seed, **trees_options)
    checkpoints.save(step, *trees, config=CONFIG, meta=META, loss=loss)


def write_run(directory, *steps, **options):
    with Checkpoints(directory, keep_latest=9) as checkpoints:
        for step in steps:
            save(checkpoints, step, **options)


@pytest.fixture(scope="module")
def steps_1_2_3(tmp_path_factory):
    directory = tmp_path_factory.mktemp("written")
    write_run(directory, 1, 2, 3)
    return directory


@pytest.fixture
def run(tmp_path, steps_1_2_3):
    """A run of three steps to damage."""
    return Path(shutil.copytree(steps_1_2_3, tmp_path / "checkpoints"))


def restore(directory, width=64):
    with Checkpoints(directory, keep_latest=9) as checkpoints:
        return checkpoints.restore_latest(*abstract(make_trees(0, width)))


def steps_in(directory):
    return sorted(int(path.name) for path in Path(directory).iterdir())


def contents(directory):
    files = [path for path in sorted(Path(directory).rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_byte(item):
    path = largest_file(item / "ocdbt.process_0")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(item):
    path = largest_file(item / "ocdbt.process_0")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(step_directory):
    shutil.rmtree(step_directory)
    step_directory.mkdir()


DAMAGES = {
    "truncated data": lambda d: truncate(d / "ema"),
    "flipped byte": lambda d: flip_byte(d / "ema"),
    "garbage _METADATA": lambda d: (d / "ema" / "_METADATA").write_text("{gar"),
    "empty step": empty,
    "ema missing": lambda d: shutil.rmtree(d / "ema"),
    "config missing": lambda d: shutil.rmtree(d / "config"),
    "meta missing": lambda d: shutil.rmtree(d / "meta"),
    "config altered": lambda d: (d / "config" / "metadata").write_text('{"lr": 0.0004}'),
    "meta garbage": lambda d: (d / "meta" / "metadata").write_text("[1"),
}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))


@pytest.mark.compat
@pytest.mark.parametrize("written_on", [ONE, ALL], ids=["from one", "from all"])
@pytest.mark.parametrize("read_on", [OTHER, ALL], ids=["to another one", "to all"])
def test_a_run_comes_back_bit_for_bit_on_other_devices(tmp_path, written_on, read_on):
    state, ema = make_trees(3, sharding=written_on)
    expected = host_copy((state, ema))
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(3, state, ema, config=CONFIG, meta=META, loss=0.5)
        assert checkpoints.latest_step() == 3
        target = abstract((state, ema), read_on)
        restored = checkpoints.restore_latest(*target)
    assert_same_bits((restored.state, restored.ema), expected)
    assert isinstance(restored.state, State)
    for leaf in jax.tree.leaves((restored.state, restored.ema)):
        assert leaf.sharding.is_equivalent_to(read_on, leaf.ndim)
    assert restored.step == 3
    assert restored.config == {"model": {"width": 64, "mults": [1, 2]}, "lr": 3e-4}
    assert restored.meta["data"] == "digits-1797"


@pytest.mark.compat
def test_meta_says_who_wrote_it_and_what_every_leaf_was(run):
    meta = load_ema(run).meta
    assert meta["schema"] == 1 and meta["loss"] == 1.0
    assert set(meta["versions"]) == {"jax", "flax", "optax", "orbax-checkpoint", "cfg_jax"}
    assert meta["versions"]["jax"] == jax.__version__
    params = make_params(3)
    state = meta["digests"]["state"]
    assert state["params/dense/bias"] == zlib.crc32(params["dense"]["bias"].tobytes())
    assert state["params/scale"] == zlib.crc32(params["scale"].tobytes())
    assert state["params/blocks/1"] == zlib.crc32(params["blocks"][1].tobytes())
    assert len(state) == 1 + 6 + 1 + 2 * 5  # step, params, Adam's count, mu and nu


@pytest.mark.parametrize("sharding", [ONE, ALL], ids=["one device", "all devices"])
def test_buffers_donated_right_after_save_are_kept_as_they_were(tmp_path, sharding):
    advance = jax.jit(lambda t: jax.tree.map(lambda x: x + jnp.ones_like(x), t), donate_argnums=0)
    trees = advance(make_trees(1, sharding=sharding))
    expected = host_copy(trees)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, *trees, config=CONFIG, meta=META, loss=1.0)
        for _ in range(10):
            trees = advance(trees)
        restored = checkpoints.restore_latest(*trees)
    assert_same_bits((restored.state, restored.ema), expected)


def test_dicts_changed_right_after_save_are_kept_as_they_were(tmp_path):
    config, meta = {"model": {"width": 64}}, {"data": "digits"}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, *make_trees(1), config=config, meta=meta, loss=1.0)
        config["model"]["width"] = meta["data"] = None
    loaded = load_ema(tmp_path)
    assert loaded.config == {"model": {"width": 64}} and loaded.meta["data"] == "digits"


def test_a_config_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="JSON"):
            checkpoints.save(1, *make_trees(1), config={"dtype": jnp}, meta=META, loss=1.0)
        save(checkpoints, 1)


@pytest.mark.compat
def test_nothing_saved_restores_as_none(tmp_path):
    assert restore(tmp_path) is None


@pytest.mark.parametrize("step", [2, 3])
def test_a_step_not_after_the_latest_is_refused(run, step):
    before = contents(run)
    with Checkpoints(run) as checkpoints, pytest.raises(ValueError, match="latest_step"):
        save(checkpoints, step)
    assert contents(run) == before


def test_the_latest_every_fourth_and_the_best_are_kept_across_a_restart(tmp_path):
    losses = {1: float("nan"), 2: 0.1, 5: 0.2}
    options = {"keep_latest": 2, "keep_every": 4, "keep_best": 1}
    for steps in (range(1, 5), range(5, 10)):
        with Checkpoints(tmp_path, **options) as checkpoints:
            for step in steps:
                save(checkpoints, step, loss=losses.get(step, 1.0))
    assert steps_in(tmp_path) == [2, 4, 8, 9]


@pytest.mark.parametrize("options", [{"keep_latest": 0}, {"keep_every": 0}, {"keep_best": -1}])
def test_numbers_out_of_range_are_named(tmp_path, options):
    with pytest.raises(ValueError, match="=".join(str(x) for x in (*options.items(),)[0])):
        Checkpoints(tmp_path, **options)


@damages
def test_restoring_falls_back_to_the_step_before_and_sets_the_damaged_one_aside(
    run, damage, caplog
):
    damage(run / "3")
    damaged = contents(run / "3")
    restored = restore(run)
    assert restored.step == 2
    assert_same_bits((restored.state, restored.ema), make_trees(2))
    assert steps_in(run) == [1, 2]
    aside = run.parent / "checkpoints.corrupt" / "3"
    assert contents(aside) == damaged
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any(f"checkpoint 3 in {run} cannot be read: " in text for text in warnings)
    assert any(f"moved to {aside}" in text for text in warnings)


@damages
def test_loading_falls_back_to_the_step_before_and_writes_nothing(run, damage, caplog):
    damage(run / "3")
    before = contents(run.parent)
    loaded = load_ema(run)
    assert loaded.step == 2
    assert_same_bits(loaded.ema, make_trees(2)[1])
    assert contents(run.parent) == before
    assert f"checkpoint 3 in {run} cannot be read: " in caplog.text


def test_a_flipped_byte_that_orbax_returns_is_found_by_its_digest(run, caplog):
    flip_byte(run / "3" / "state")
    state = abstract(make_trees(0)[0])
    with ocp.CheckpointManager(run) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(state))
        silently = manager.restore(3, args=args)["state"]
    with pytest.raises(AssertionError):
        assert_same_bits(silently, make_trees(3)[0])
    assert restore(run).step == 2
    assert "differs from its digest" in caplog.text


@pytest.mark.parametrize(
    "was, flipped", [('"schema": 1', '"schema": 3'), ("digits-1797", "digits-1796")]
)
def test_a_flipped_letter_in_meta_is_damage_and_no_mistake(run, was, flipped):
    path = run / "3" / "meta" / "metadata"
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, flipped))
    assert restore(run).step == 2


def test_a_damaged_state_does_not_keep_the_ema_from_being_loaded(run):
    (run / "3" / "state" / "_METADATA").write_text("{gar")
    assert load_ema(run).step == 3
    shutil.rmtree(run / "3" / "state")
    assert load_ema(run).step == 3


def test_a_step_set_aside_can_be_saved_again_and_set_aside_again(run):
    for seed in (30, 31):
        truncate(run / "3" / "state")
        with Checkpoints(run, keep_latest=9) as checkpoints:
            assert checkpoints.restore_latest(*abstract(make_trees(0))).step == 2
            assert checkpoints.latest_step() == 2
            save(checkpoints, 3, seed)
        restored = restore(run)
        assert restored.step == 3
        assert_same_bits(restored.state, make_trees(seed)[0])
    aside = run.parent / "checkpoints.corrupt"
    assert sorted(path.name for path in aside.iterdir()) == ["3", "3.1"]


def test_a_step_that_another_process_cannot_read_is_left_for_the_one_before(caplog):
    others = {3: False, 2: True}
    asked = []

    def agree(whole):
        asked.append(whole)
        return whole and others[3 - len(asked) + 1]

    found = manifest.newest_whole("run", [1, 2, 3], lambda step: f"step {step}", agree)
    assert found == ("step 2", [3]) and asked == [True, True]
    assert "checkpoint 3 in run cannot be read: another process cannot read it" in caplog.text


def test_two_damaged_steps_are_both_set_aside(run):
    truncate(run / "2" / "ema")
    flip_byte(run / "3" / "state")
    assert restore(run).step == 1
    assert steps_in(run) == [1]
    assert steps_in(run.parent / "checkpoints.corrupt") == [2, 3]


def test_when_every_step_is_damaged_it_stops_and_leaves_them_alone(run):
    for step in ("1", "2"):
        truncate(run / step / "ema")
    flip_byte(run / "3" / "ema")
    before = contents(run.parent)
    for read in (restore, restore, load_ema):  # a restarted job must not start from scratch
        with pytest.raises(ValueError, match=f"{run}.*step 3.*digest.*another directory"):
            read(run)
    assert contents(run.parent) == before


def narrow(state):
    return state.replace(params=make_params(0, width=32))


def in_bfloat16(state):
    dense = state.params["dense"]
    kernel = jax.ShapeDtypeStruct(dense["kernel"].shape, jnp.bfloat16)
    return state.replace(params=state.params | {"dense": dense | {"kernel": kernel}})


def without_scale(state):
    return state.replace(params={k: v for k, v in state.params.items() if k != "scale"})


@pytest.mark.parametrize(
    ("change", "leaf", "there", "here"),
    [
        (narrow, "state/params/dense/kernel", "float32[64, 16]", "float32[32, 16]"),
        (in_bfloat16, "state/params/dense/kernel", "float32[64, 16]", "bfloat16[64, 16]"),
        (without_scale, "state/params/scale", "float32[]", "absent"),
    ],
)
def test_another_form_is_a_mistake_in_the_config_and_moves_nothing(run, change, leaf, there, here):
    before = contents(run.parent)
    state, ema = abstract(make_trees(0))
    with Checkpoints(run) as checkpoints, pytest.raises(MismatchError) as error:
        checkpoints.restore_latest(change(state), ema)
    assert f"checkpoint 3 in {run}: {leaf} is {there} on disk and {here} here" in str(error.value)
    assert contents(run.parent) == before


def test_an_unknown_schema_is_refused_and_nothing_moves(run):
    path = run / "3" / "meta" / "metadata"
    meta = json.loads(path.read_text()) | {"schema": 99}
    del meta["digests"]["meta"]
    path.write_text(json.dumps(meta))
    before = contents(run.parent)
    for read in (restore, load_ema):
        with pytest.raises(ValueError, match="schema is 99"):
            read(run)
    assert contents(run.parent) == before


def test_the_ema_lands_on_the_first_device_without_model_or_optimizer(tmp_path):
    write_run(tmp_path, 4, sharding=ALL)
    loaded = load_ema(str(tmp_path))
    assert loaded.step == 4 and type(loaded.ema) is dict
    assert_same_bits(loaded.ema, make_params(1004))
    assert {leaf.sharding for leaf in jax.tree.leaves(loaded.ema)} == {ONE}


def test_the_ema_of_a_given_step_is_loaded_or_the_steps_there_are_named(run):
    assert_same_bits(load_ema(run, step=1).ema, make_params(1001))
    with pytest.raises(ValueError, match=r"step 7 .*\[1, 2, 3\]"):
        load_ema(run, step=7)
    truncate(run / "2" / "ema")
    with pytest.raises(ValueError, match="step 2: "):
        load_ema(run, step=2)


def test_a_directory_without_checkpoints_is_named_with_what_is_expected(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=f"{directory}.*cfg-jax train") as error:
            load_ema(directory)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "missing").exists()
    for opening in (load_ema, Checkpoints):
        with pytest.raises(ValueError, match="is a file"):
            opening(tmp_path / "notes.txt")


def test_the_checkpoints_of_another_program_are_refused_and_left_alone(tmp_path):
    with ocp.CheckpointManager(tmp_path / "c") as manager:
        manager.save(1, args=ocp.args.StandardSave(make_params(1)))
    before = contents(tmp_path)
    for read in (restore, load_ema):
        with pytest.raises(ValueError, match="config and ema and meta .* another program") as error:
            read(tmp_path / "c")
        assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_the_ema_can_be_loaded_while_the_run_is_writing(run):
    with Checkpoints(run) as checkpoints:
        save(checkpoints, 4)
        loaded = load_ema(run)
        assert loaded.step in (3, 4)
        assert_same_bits(loaded.ema, make_params(loaded.step + 1000))
        checkpoints.wait()
        assert load_ema(run).step == 4


def test_a_step_that_the_run_removes_while_it_is_read_is_followed_by_the_next(run, monkeypatch):
    own, tries = checkpoint._read, []

    def overtaken(manager, step, *targets):
        tries.append(step)
        if len(tries) == 1:
            shutil.copytree(run / "3", run / "4")
            for old in (1, 2, 3):
                shutil.rmtree(run / str(old))
        return own(manager, step, *targets)

    monkeypatch.setattr(checkpoint, "_read", overtaken)
    assert load_ema(run).step == 4
    assert tries[0] == 3 and tries[-1] == 4


def test_what_a_killed_or_failed_save_left_behind_is_removed_at_the_next_start_or_save(run):
    partial = run / "3.orbax-checkpoint-tmp"
    (run / "3").rename(partial)  # orbax commits by the inverse rename
    with Checkpoints(run, keep_latest=9) as checkpoints:
        assert checkpoints.latest_step() == 2
        assert steps_in(run) == [1, 2]
        shutil.copytree(run / "2", partial)
        checkpoints.wait()
        assert steps_in(run) == [1, 2]
        save(checkpoints, 3, 30)
    assert_same_bits(restore(run).ema, make_params(1030))


def test_leaving_by_an_error_still_finishes_the_running_save(tmp_path):
    with pytest.raises(KeyError), Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        raise KeyError("training broke")
    assert restore(tmp_path).step == 1


@pytest.fixture
def full_disk():
    yield small_files_only
    gc.collect()  # makes asyncio report unretrieved errors here, not at exit


@contextlib.contextmanager
def small_files_only():
    """Limits files to 32 KiB inside the block, and waits for the background save at its end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, hard))
    try:
        yield
        for thread in threading.enumerate():
            if thread.name == "save_finalize":
                threading.Thread.join(thread, 60)  # the subclass raises the tested error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_save_surfaces_at_the_next_one_which_is_written_all_the_same(tmp_path, full_disk):
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        save(checkpoints, 1)
        checkpoints.wait()
        with full_disk():
            save(checkpoints, 2)
        with pytest.raises(SaveError, match="step 2 was not written.*File too large") as error:
            save(checkpoints, 3)
        assert error.value.step == 2
        checkpoints.wait()
        assert checkpoints.latest_step() == 3
    assert_same_bits(restore(tmp_path).ema, make_params(1003))
    assert steps_in(tmp_path) == [3]


def test_a_failed_save_surfaces_when_waiting_and_the_step_can_be_saved_again(tmp_path, full_disk):
    with Checkpoints(tmp_path) as checkpoints:
        with full_disk():
            save(checkpoints, 1)
        with pytest.raises(SaveError, match="step 1 "):
            checkpoints.wait()
        assert checkpoints.latest_step() is None
        save(checkpoints, 1)
    assert restore(tmp_path).step == 1


def test_a_failed_last_save_surfaces_on_leaving(tmp_path, full_disk):
    with pytest.raises(SaveError, match="step 1 "), Checkpoints(tmp_path) as checkpoints:
        with full_disk():
            save(checkpoints, 1)
    assert restore(tmp_path) is None


def test_a_directory_lost_on_the_way_surfaces_and_the_step_can_be_saved_once_it_is_back(tmp_path):
    run = tmp_path / "c"
    with Checkpoints(run) as checkpoints:
        run.rmdir()
        run.write_text("a file in its place")
        threads = set(threading.enumerate())
        with pytest.raises(SaveError, match="step 1 "):
            save(checkpoints, 1)
            checkpoints.wait()
        for thread in set(threading.enumerate()) - threads:
            thread.join(10)
            assert not thread.is_alive(), "it would hold the process at its exit"
        run.unlink()
        run.mkdir()
        save(checkpoints, 1)
    assert restore(run).step == 1
