"""Bucket folders, with fsspec's memory file system in place of Google's library."""

import argparse
import contextlib
import errno
import importlib.util
import json
import os
import subprocess
import sys

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from cfg_jax.data.preparation import expand_user
from cfg_jax.evaluation import accumulate, file_reference, read_result, reference
from cfg_jax.evaluation.result import Result, write_result
from cfg_jax.io import files, images
from cfg_jax.io.files import check_file_writable, check_writable, folder, save_npz
from cfg_jax.io.metric_log import MetricLog
from cfg_jax.io.weight_files import existing
from cfg_jax.metrics import load_statistics, save_statistics
from cfg_jax.sampling import run_folder
from cfg_jax.training import profile
from tests.data_files import files_up_to
from tests.plain_network import accumulated, images_at, plain_network
from tests.programs import ROOT


class Bucket(MemoryFileSystem):
    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("gs://").strip("/")

    def glob(self, path, **options):
        return [found.lstrip("/") for found in super().glob(path, **options)]


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(Bucket, "store", {})
    for name in Bucket.protocol:
        fsspec.register_implementation(name, Bucket, clobber=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "gcsfs" or None)
    monkeypatch.setenv("EPATH_USE_TF", "false")
    return folder("gs://bucket/run")


def test_a_folder_of_the_file_system_is_that_of_its_user(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder("~/runs/a") == tmp_path / "runs" / "a"
    assert folder(tmp_path) == tmp_path


CANNOT_READ = "has characters that this process cannot read, its file names are "


def test_a_name_that_the_locale_cannot_spell_is_refused_with_what_to_set():
    for check in (folder, lambda name: check_writable(name, "workdir"), expand_user, existing):
        with pytest.raises(ValueError, match=CANNOT_READ + "utf-8: set LANG=C.UTF-8") as caught:
            check("runs/Gr\udcc3\udcb6e.pt")
        assert "\\udcc3" in str(caught.value) and str(caught.value).isascii()
    assert folder("runs/Größe").name == "Größe"


@pytest.mark.parametrize("name", ["Größe", "猫", "plain"])
def test_in_the_locale_c_without_utf_8_names_are_ascii_or_refused(name):
    code = """import runpy, sys
try: print(runpy.run_path("cfg_jax/io/files.py")["folder"](sys.argv[1]))
except ValueError as error: print(error)"""
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        cwd=ROOT,
    )
    said = done.stdout.decode("ascii").strip()
    assert said == name if name.isascii() else CANNOT_READ + "ascii" in said, done


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://example.com/run", "give a folder, or gs://bucket/folder"),
        ("gs://bucket/run", "run `pip install gcsfs`"),
    ],
)
def test_a_place_that_cannot_be_opened_is_refused_and_never_made_here(
    monkeypatch, tmp_path, name, said
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        folder(name)
    assert not list(tmp_path.iterdir())


def test_a_bucket_is_named_as_before_and_stays_one_below(bucket):
    below = folder(bucket / "checkpoints")
    assert str(below) == "gs://bucket/run/checkpoints" and not below.exists()
    assert str(run_folder.check_free("gs://bucket/run")) == "gs://bucket/run/checkpoints"


def test_an_evaluation_is_kept_in_a_bucket_and_continued_there(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(accumulate, "SAVE_SECONDS", 0.0)
    whole = accumulated(tmp_path, keep_rows=True)
    looks = []

    def dying(index):
        looks.append(index)
        if len(looks) == 4:
            raise KeyboardInterrupt
        return images_at(index)

    with pytest.raises(KeyboardInterrupt):
        accumulated(bucket / "cell", images_at=dying, keep_rows=True)
    found = accumulated(bucket / "cell", keep_rows=True)
    np.testing.assert_array_equal(found.rows, whole.rows)
    for name, values in found.sums.arrays().items():
        np.testing.assert_array_equal(values, whole.sums.arrays()[name])


def test_numbers_statistics_and_pictures_are_read_back_from_a_bucket(bucket, monkeypatch):
    result = Result({"fid": 1.5}, {"network": "pixels"}, {}, {}, bucket / "result_a.json")
    write_result(result)
    assert read_result(str(result.path)) == result
    moments = plain_network().function(images_at(range(9))).features
    stats = accumulate.Sums.of(plain_network().function(images_at(range(9))), np.arange(9)).pool
    save_statistics(str(bucket / "statistics.npz"), stats, data="noise")
    saved = load_statistics(str(bucket / "statistics.npz"))
    np.testing.assert_allclose(saved.pool.mean, moments.mean(axis=0), rtol=1e-6)
    monkeypatch.setattr(MetricLog, "_open_events", lambda *_: None)  # needs Google's library
    for start in (0, 1):  # a run of two steps, resumed after the first
        with contextlib.closing(MetricLog(bucket, start)) as log:
            log.write(start + 1, {"loss": 0.5 + start})
            log.write(start + 2, {"loss": 1.5 + start})
    lines = (bucket / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [0.5, 1.5, 2.5]
    images.save_png(bucket / "previews" / "a.png", Image.new("L", (4, 4), 7))
    with Image.open((bucket / "previews" / "a.png").open("rb")) as picture:
        assert np.asarray(picture).tolist() == [[7] * 4] * 4


def test_a_trace_of_steps_is_written_to_a_bucket(bucket):
    with profile.Trace(bucket / "profile", (1, 1)) as trace, trace.step(1):
        pass
    found = [path.name for path in (bucket / "profile").glob("plugins/profile/*/*")]
    assert "perfetto_trace.json.gz" in found and any(n.endswith(".xplane.pb") for n in found)


def test_a_reference_is_opened_where_a_person_says_its_images_too(bucket, monkeypatch, tmp_path):
    network, images_seen = plain_network(), np.asarray(images_at(range(9)))
    moments = accumulate.Sums.of(network.function(images_seen), np.arange(9)).pool
    named = {"network": "pixels", "network_sha256": network.sha256, "resize": "none"}
    described = json.dumps(named | {"name": "noise", "image_shape": [8, 8, 1]})
    arrays = {"mu": moments.mean, "sigma": moments.covariance, "manifest": described}
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (str(bucket / "adm.npz"), "~/adm.npz"):
        save_npz(folder(place), **arrays, arr_0=images_seen)
        rows = file_reference(network, place, with_rows=True).rows
        np.testing.assert_array_equal(rows, network.function(images_seen).features)


def test_images_that_vanish_after_their_moments_are_read_are_told_of(tmp_path):
    with pytest.raises(ValueError, match="the images arr_0 of .*gone.npz cannot be read"):
        reference._rows_of_images(plain_network(), tmp_path / "gone.npz", 4)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "--out is empty: give another folder"),
        ("{file}", r"--out=.*/file cannot be written \(.*/file is a file\): give another folder"),
        ("{file}/below/it", r"cannot be written \(.*/file is a file\)"),
        ("{closed}/below", r"cannot be written \(.*/closed is read-only\)"),
    ],
)
def test_a_folder_that_no_file_can_be_put_in_is_refused(tmp_path, monkeypatch, place, said):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "closed")  # root may write
    place = place.format(file=tmp_path / "file", closed=tmp_path / "closed")
    with pytest.raises(ValueError, match=said):
        check_writable(place, "--out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["closed", "file"]


@pytest.mark.parametrize("name", ["mine.png", "a/mine.NPZ"])
def test_a_new_folder_with_the_name_of_a_file_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"--out=.*{name} is the name of a file, and a folder is"):
        check_writable(tmp_path / name, "--out")
    (tmp_path / name).mkdir(parents=True)
    check_writable(tmp_path / name, "--out")


def test_whether_a_folder_can_be_written_is_seen_without_making_it(tmp_path):
    for place in (tmp_path, tmp_path / "a" / "b", "gs://bucket/run"):
        check_writable(place, "--out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("blocks", "is_full"), [(100, True), (0, False)])
def test_a_full_disk_is_seen_before_anything_is_written_to_it(
    tmp_path, monkeypatch, blocks, is_full
):
    disk = argparse.Namespace(f_blocks=blocks, f_bfree=0)  # 0 of 0: it does not know its size
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    said = (
        rf"--out=.*new cannot be written \({tmp_path} is on a full disk\): free some space or give"
    )
    with pytest.raises(ValueError, match=said) if is_full else contextlib.nullcontext():
        check_writable(tmp_path / "new", "--out")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "--out is empty: give another file"),
        ("{folder}", r"--out=.* cannot be written \(it is a folder\): give another file"),
        ("{folder}/file/a.png", r"=.*/a.png cannot be written \(.*/file is a file\): give another"),
        ("~nobody_of_that_name/a.png", "there is no such user, give a path without ~"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path, place, said):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match=said):
        check_file_writable(place.format(folder=tmp_path), "--out")
    check_file_writable(tmp_path / "file", "--out")
    check_file_writable(tmp_path / "a" / "b.png", "--out", ".png")
    with pytest.raises(ValueError, match=r"--out=.*b.jpg: need a name that ends in .png"):
        check_file_writable(tmp_path / "a" / "b.jpg", "--out", ".png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


NOISE = np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.save_text(path, "text" * 2000),
        lambda path: files.save_npz(path, images=NOISE),
        lambda path: accumulate._write(path, {"images": NOISE}),
        lambda path: images.save_png(path, Image.fromarray(NOISE)),
    ],
)
def test_a_disk_that_fills_is_named_with_the_file_and_nothing_is_left(tmp_path, write):
    path = tmp_path / "file"
    said = f"{path} cannot be written (File too large): free some space or give another folder"
    with pytest.raises(OSError) as failed, files_up_to(4096):
        write(path)
    assert str(failed.value) == said and failed.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ["EACCES", "EROFS", "ENOSPC", "EDQUOT"])
def test_what_a_disk_refuses_names_the_file(tmp_path, number):
    refusal = OSError(getattr(errno, number), os.strerror(getattr(errno, number)))
    with pytest.raises(OSError, match=rf"/a\.png cannot be written \({refusal.strerror}\): "):
        with files.whole_file(tmp_path / "a.png"):
            raise refusal
