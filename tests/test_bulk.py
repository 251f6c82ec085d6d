"""Folders of samples against the same samples from one call of the model."""

import copy
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from cfg_jax.evaluation import Samples, SamplingSettings
from cfg_jax.io.ranges import RangeFiles
from cfg_jax.runtime import processes
from cfg_jax.sampling import shards
from cfg_jax.storage.lock import hold
from tests.tiny import pixel_model, tiny_config

ROOT = Path(__file__).parents[1]
N = 60
W = 1.5


def new_model():
    near = {"diffusion.logsnr_min": -8.0, "diffusion.logsnr_max": 8.0, "sampling.num_steps": 3}
    return pixel_model(tiny_config(**near))


@pytest.fixture(scope="module")
def model():
    return new_model()


def draw(model, folder, **options):
    own = {"num_samples": N, "sampling": SamplingSettings(w=W), "shard_size": 25, "batch_size": 7}
    options = own | options
    sizes = {name: options.pop(name) for name in ("shard_size", "batch_size")}
    return shards.sample_to_files(Samples(model, **options), folder, **sizes)


def contents(folder):
    """(images, labels) of all files of a folder, in the order of their names."""
    parts = [np.load(path) for path in sorted(folder.glob("samples_*.npz"))]
    return tuple(np.concatenate([part[name] for part in parts]) for name in ("images", "labels"))


def assert_equal_but_for_rounding(images, expected):
    """Programs of other shapes round float32 differently, which may change an 8-bit value."""
    difference = np.abs(images.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.002


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "samples"
    draw(model, folder)
    return folder


@pytest.fixture(scope="module")
def expected(model):
    """Samples i from fold_in(key(0), i) and label i mod 10, in one batch."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), np.arange(N))
    return model.sample(keys, labels=np.arange(N) % 10, w=W)


def test_the_files_hold_each_sample_once_with_its_label(undisturbed, expected):
    names = [path.name for path in sorted(undisturbed.iterdir())]
    ranges = ["00000000_00000025", "00000025_00000050", "00000050_00000060"]
    assert names == ["manifest.json", *(f"samples_{name}.npz" for name in ranges)]
    images, labels = contents(undisturbed)
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert_equal_but_for_rounding(images, expected)
    np.testing.assert_array_equal(labels, np.arange(N) % 10)
    assert len(np.unique(images.reshape(N, -1), axis=0)) == N


@pytest.mark.parametrize(("batch_size", "shard_size"), [(7, 25), (64, 7), (7, 1), (64, 1000)])
def test_batches_and_shards_do_not_matter(model, expected, tmp_path, batch_size, shard_size):
    paths = draw(model, tmp_path, batch_size=batch_size, shard_size=shard_size)
    assert len(paths) == -(-N // shard_size)
    assert_equal_but_for_rounding(contents(tmp_path)[0], expected)


def test_one_device_draws_the_same(model, expected, tmp_path, monkeypatch):
    local = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda **_: local)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    draw(model.with_params(jax.device_get(model.params), model.step), tmp_path)
    assert_equal_but_for_rounding(contents(tmp_path)[0], expected)


def test_random_labels_are_drawn_for_each_index_and_written_beside_its_image(model, tmp_path):
    draw(model, tmp_path, label_plan="random", seed=3)
    images, labels = contents(tmp_path)
    assert set(labels) <= set(range(10)) and len(set(labels)) > 5
    assert (labels != np.arange(N) % 10).any()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), np.arange(N))
    assert_equal_but_for_rounding(images, model.sample(keys, labels=labels, w=W))


class Dying:
    """A function killed at one of its calls, before its work or halfway through."""

    def __init__(self, function, call, half=None):
        self.function, self.left, self.half = function, call, half

    def __call__(self, *args, **options):
        self.left -= 1
        if self.left == 0:
            if self.half:
                self.half(*args)
            raise KeyboardInterrupt
        return self.function(*args, **options)


def test_three_kills_at_random_points_end_in_the_same_samples(model, tmp_path, monkeypatch):
    draw(model, tmp_path / "undisturbed", shard_size=4)
    folder = tmp_path / "killed"
    rng = random.Random(0)
    whole = []
    for kind in rng.sample(["drawing", "writing", "between"], 3):
        with monkeypatch.context() as patch:
            if kind == "drawing":
                dying = copy.copy(model)
                dying.draw = Dying(model.draw, rng.randint(1, 3))
                killed = dying
            else:
                killed = model
                half = (
                    (lambda file, **_: file.write(b"PK\x03\x04 half"))
                    if kind == "writing"
                    else None
                )
                patch.setattr(np, "savez_compressed", Dying(np.savez_compressed, 2, half))
            with pytest.raises(KeyboardInterrupt):
                draw(killed, folder, shard_size=4)
        there = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
        assert all(there.get(path) == when for path, when in whole), (
            "a whole file was written again"
        )
        whole = list(there.items())
    assert 0 < len(whole) < 15
    draw(model, folder, shard_size=4)
    for found, wanted in zip(contents(folder), contents(tmp_path / "undisturbed"), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert not list(folder.glob("*.unfinished"))


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def of_other_images(path):
    np.savez(path, images=np.zeros((25, 4, 4, 1), np.uint8), labels=np.zeros(25, np.int32))


@pytest.mark.parametrize("damage", [flipped, truncated, of_other_images, Path.unlink])
def test_a_damaged_file_alone_is_drawn_again(model, undisturbed, tmp_path, damage):
    draw(model, tmp_path)
    first, second, third = sorted(tmp_path.glob("*.npz"))
    kept = {path: path.stat().st_mtime_ns for path in (first, third)}
    damage(second)
    draw(model, tmp_path)
    np.testing.assert_array_equal(contents(tmp_path)[0], contents(undisturbed)[0])
    assert {path: path.stat().st_mtime_ns for path in (first, third)} == kept


def idle(model):
    """A model that fails if it draws."""
    other = copy.copy(model)
    other.draw = None
    return other


def test_a_finished_folder_costs_no_sample(model, undisturbed):
    assert [path.name for path in draw(idle(model), undisturbed)] == [
        path.name for path in sorted(undisturbed.glob("*.npz"))
    ]


def test_a_pipe_gets_a_line_with_rate_and_time_left_every_ten_seconds(
    model, tmp_path, capsys, monkeypatch
):
    seconds = itertools.count(0.0, 6.0)
    monkeypatch.setattr("cfg_jax.io.progress.time.monotonic", lambda: next(seconds))
    draw(model, tmp_path)
    _, second, *_, last = capsys.readouterr().out.splitlines()
    assert "s/image " in second and second.endswith("left")
    assert last.startswith(f"image {N}/{N}") and "s/image" in last and "left" not in last


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 1}, "seed=0, not 1"),
        ({"num_samples": 50}, "num_samples=60, not 50"),
        ({"label_plan": "random"}, "label_plan=balanced, not random"),
        ({"shard_size": 20}, "shard_size=25, not 20"),
        ({"sampling": SamplingSettings(w=2)}, "w=1.5, not 2.0"),
        ({"sampling": SamplingSettings(w=W, num_steps=4)}, "num_steps=3, not 4"),
        ({"sampling": SamplingSettings(w=W, solver="ddim")}, "solver=ancestral, not ddim"),
    ],
)
def test_a_folder_of_other_settings_is_refused_by_the_field(model, undisturbed, options, said):
    with pytest.raises(ValueError, match=f"holds samples with {said}: use that value"):
        draw(model, undisturbed, **options)


def test_a_folder_of_another_checkpoint_or_model_is_refused(model, undisturbed):
    other = jax.tree.map(lambda a: a + 1, jax.device_get(model.params))
    with pytest.raises(ValueError, match="holds samples with checkpoint=7, not 8"):
        draw(model.with_params(other, 8), undisturbed)
    with pytest.raises(ValueError, match="holds samples with model=[0-9a-f]{64}, not"):
        draw(model.with_params(other, 7), undisturbed)


def test_the_manifest_says_what_the_samples_are(undisturbed):
    described = json.loads((undisturbed / shards.MANIFEST).read_text())
    assert described["settings"] | {"w": W, "seed": 0, "num_samples": N} == described["settings"]
    assert described["label_names"] == list("0123456789")
    assert "jax" in described["versions"]


def test_samples_of_unknown_settings_are_refused(model, tmp_path):
    draw(model, tmp_path)
    path = tmp_path / shards.MANIFEST
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match="unreadable or was edited"):
        draw(model, tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="holds samples but no manifest.json"):
        draw(model, tmp_path)
    assert not path.exists()


def test_processes_draw_shards_of_their_own_that_make_the_folder_of_one(tmp_path, monkeypatch):
    """Two processes of one device each, and one process of two."""
    devices = jax.local_devices()

    def have(count):
        monkeypatch.setattr(jax, "local_devices", lambda **_: devices[:count])
        monkeypatch.setattr(jax, "local_device_count", lambda: count)
        return new_model()

    options = {"shard_size": 7, "batch_size": 30}
    draw(have(2), tmp_path / "alone", **options)
    folder = tmp_path / "several"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    model = have(1)
    monkeypatch.setattr(processes, "wait_for_all", lambda what: None)
    monkeypatch.setattr(processes, "of_first", lambda value: value)
    monkeypatch.setattr(processes, "of_each", lambda number: [number] * 2)
    made = []
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        if process == 0:  # it checks the other's files, drawn later here
            with pytest.raises(OSError, match="sample 7 of 60 is missing from"):
                draw(model, folder, **options)
        else:
            draw(model, folder, **options)
        there = {int(path.name.split("_")[1]) // 7 for path in folder.glob("*.npz")}
        made.append(there.difference(*made))
    assert made == [{0, 2, 4, 6, 8}, {1, 3, 5, 7}]
    assert RangeFiles(folder, "samples").reached(N) == N
    for found, wanted in zip(contents(folder), contents(tmp_path / "alone"), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("samples_00000020_00000030.npz", "overlaps another file"),
        ("samples_00000060_00000070.npz", "exceeds the 60 requested samples"),
        ("samples_best.npz", "not named samples_START_STOP.npz"),
    ],
)
def test_a_file_that_does_not_belong_is_told_of_before_any_sample(
    model, undisturbed, tmp_path, name, said
):
    shutil.copy(undisturbed / shards.MANIFEST, tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(OSError, match=said):
        draw(idle(model), tmp_path)


def test_a_folder_that_another_program_draws_into_is_refused(model, tmp_path):
    folder = tmp_path / "samples"
    give_back = hold(folder / "cfg_jax.lock")
    with pytest.raises(ValueError, match="cfg_jax.lock is locked: process .* is writing"):
        draw(idle(model), folder)
    assert [path.name for path in folder.iterdir()] == ["cfg_jax.lock"]
    give_back()
    held = []
    watched = copy.copy(model)
    watched.draw = lambda *args, **options: (
        held.append((folder / "cfg_jax.lock").exists()) or model.draw(*args, **options)
    )
    draw(watched, folder)
    assert all(held) and held and not (folder / "cfg_jax.lock").exists()


def test_files_of_the_user_beside_the_folder_are_left_alone(model, tmp_path):
    beside = tmp_path / "poetry.lock"
    beside.write_text("[[package]]")
    inside = tmp_path / "poetry" / "essay.unfinished"
    inside.parent.mkdir()
    inside.write_text("I")
    draw(model, tmp_path / "poetry")
    assert (beside.read_text(), inside.read_text()) == ("[[package]]", "I")


def test_a_process_that_does_not_see_the_folder_is_named_by_all(model, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "of_each", lambda seen: [1, seen, 0])
    with pytest.raises(ValueError, match="process 2 cannot see .*: give a folder that all"):
        draw(idle(model), tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_samples": 61}, "use 70, or label_plan='random'"),
        ({"num_samples": 0}, "num_samples=0: need 2 or more"),
        ({"label_plan": "sorted"}, "choose one of balanced, random"),
        ({"batch_size": 0}, "batch_size=0: need an integer of at least 1"),
        ({"shard_size": -1}, "shard_size=-1: need an integer of at least 1"),
        ({"sampling": SamplingSettings(classifier_w=1.0)}, "without a classifier"),
    ],
)
def test_a_mistake_costs_one_line_and_no_folder(model, tmp_path, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        draw(model, tmp_path / "new", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_folder_without_samples_may_be_given_again(model, tmp_path):
    with pytest.raises(ValueError, match="w=nan: need finite guidance weights"):
        draw(model, tmp_path, sampling=SamplingSettings(w=np.nan))
    assert len(draw(model, tmp_path)) == 3


PARSE = """
import sys
from absl import flags
from launch import sample
for line in sys.stdin:
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["sample", "--workdir=none", *line.split()])
    try:
        sample.check()
    except ValueError as error:
        print(str(error).replace(chr(10), "NEWLINE"))
"""


def test_flags_that_do_not_go_together_are_refused_before_anything_is_read():
    cases = {
        "--num_samples=50 --out=o": "--num_samples draws at one weight: give it, as --w=1",
        "--num_samples=50 --w=0,1 --out=o": "--w=0,1: give one weight with --num_samples",
        "--num_samples=50 --w=1": "--num_samples needs --out: give the folder",
        "--num_samples=50 --w=1 --out=o --labels=3": "--labels conflicts with --num_samples",
        "--num_samples=50 --w=1 --out=o --upsampler_workdir=u": "--upsampler_workdir conflicts",
        "--shard_size=7": "--shard_size needs --num_samples: give that too",
        "--label_plan=random": "--label_plan needs --num_samples: give that too",
    }
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input="\n".join(cases),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    for line, said in zip(done.stdout.splitlines(), cases.values(), strict=True):
        assert said in line


@pytest.mark.long
def test_the_program_killed_three_times_ends_with_the_same_samples(tiny_run, tmp_path):
    def command(out):
        return [
            *(sys.executable, "-m", "launch.sample", f"--workdir={tiny_run}", "--w=1"),
            *(
                "--num_samples=2000",
                "--shard_size=50",
                "--batch_size=100",
                f"--out={tmp_path / out}",
            ),
        ]

    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    subprocess.run(command("whole"), check=True, **options)
    for files in sorted(random.Random(1).sample(range(2, 36), 3)):
        process = subprocess.Popen(command("killed"), **options)
        while len(list((tmp_path / "killed").glob("samples_*.npz"))) < files:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    done = subprocess.run(command("killed"), check=True, **options)
    assert "2000 samples in 40 files" in done.stdout
    whole, killed = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert len(whole[0]) == 2000
    for found, wanted in zip(killed, whole, strict=True):
        np.testing.assert_array_equal(found, wanted)
