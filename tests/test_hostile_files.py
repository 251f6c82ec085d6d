"""Readers of files that somebody else may have made: a right answer or one line, in little memory.

Hypothesis changes bytes of a valid file; every reader gets the same changes.
"""

import io
import json
import os
import tracemalloc
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.util.tensor_util import make_tensor_proto

from cfg_jax import data
from cfg_jax.config.validate import check_values, from_json
from cfg_jax.data.arrays import load_arrays
from cfg_jax.evaluation import open_images, read_result
from cfg_jax.interop import openai_flags
from cfg_jax.io import images, weight_files
from cfg_jax.io.metric_log import read_records
from cfg_jax.io.reading import open_npz, read_json
from cfg_jax.metrics import inception_weights, load_statistics
from cfg_jax.preflight import cache
from cfg_jax.preflight.verdict import Compiled, Memory
from cfg_jax.study.files import read_results
from tests.sweep_results import made_result
from tests.tiny import tiny_config

GOLDEN = Path(__file__).parent / "golden"
MOST_BYTES = 100 * 2**20
NUM_MUTATIONS = 500
RNG = np.random.default_rng(0)


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read_config(path):
    config = from_json(read_json(path))
    check_values(config)


def read_log(path):
    return read_records(path.parent)


def read_samples(path):
    """Images in files beside a manifest."""
    (path.parent / "samples_00000000_00000005.npz").write_bytes(IMAGES)
    return open_images(path.parent)


def read_folder(path):
    """The picture as a data set of one class."""
    return data.open_source("folder", "all", data_dir=str(path.parent))


def picture(kind):
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (9, 8, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def graph():
    """A frozen graph with the names of the FID network, and one number in each array."""
    norms = ("gamma", "beta", "moving_mean", "moving_variance")
    shapes = {"softmax/weights": (1, 1), "softmax/biases": (1,)}
    for scope in inception_weights.graph_scopes().values():
        shapes[f"{scope}/conv2d_params"] = (1, 1, 1, 1)
        shapes |= {f"{scope}/batchnorm/{norm}": (1,) for norm in norms}
    nodes = [
        {"name": name, "attr": {"value": {"tensor": make_tensor_proto(np.ones(shape, "f4"))}}}
        for name, shape in shapes.items()
    ]
    return GraphDef(node=nodes).SerializeToString()


def preflight():
    compiled = Compiled(1.0, 100, 3, Memory(10, 1, 1, 2, 1000), dtypes={"f32": 7})
    names = {"name": "a", "topology": "v5e:2x2", "program": "train", "digest": "0" * 64}
    sizes = {"num_devices": 4, "per_device": 1, "config": {}, "versions": {"jax": "1"}}
    result = cache.Result(**names, **sizes, compiled=compiled)
    return json.dumps(asdict(result) | {"follows": {}}).encode()


STATISTICS = npz(mu=np.zeros(3), sigma=np.eye(3), count=9, manifest=json.dumps({"name": "a"}))
IMAGES = npz(images=RNG.integers(0, 256, (5, 4, 4, 1), np.uint8), labels=np.arange(5) % 2)
WEIGHTS = safetensors.numpy.save({"a.weight": np.ones((2, 3), np.float32)})
CELL = made_result(0.0, 1.0, 2.0)._asdict() | {"path": "a"}
RESULT = json.dumps({name: value for name, value in CELL.items() if name != "path"}).encode()
RESULTS = json.dumps([CELL]).encode()
CONFIG = tiny_config().to_json().encode()
FLAGS = json.dumps({"image_size": 64, "num_classes": 3, "class_cond": True}).encode()
LOG = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'

READERS = {
    "statistics.npz": (load_statistics, STATISTICS),
    "images.npz": (load_arrays, IMAGES),
    "samples.npz": (open_images, IMAGES),
    "weights.safetensors": (weight_files.read, WEIGHTS),
    "result_a.json": (read_result, RESULT),
    "results.json": (read_results, RESULTS),
    "config.json": (read_config, CONFIG),
    "flags.json": (openai_flags.read, FLAGS),
    "metrics.jsonl": (read_log, LOG),
    "manifest.json": (read_samples, json.dumps({"settings": {"num_samples": 5}}).encode()),
    "preflight.json": (cache.read, preflight()),
    "archive.pt": (weight_files.read, (GOLDEN / "torch_archive.pt").read_bytes()),
    "old.pth": (weight_files.read, (GOLDEN / "torch_without_archive.pth").read_bytes()),
    "graph.pb": (inception_weights.read_graph, graph()),
    "strip.png": (images.read_picture, picture("png")),
    **{f"picture.{kind}": (read_folder, picture(kind)) for kind in ("png", "jpeg")},
}


def damaged(content, edits):
    """The content with 1 to 3 places changed: a bit, a character, or up to 8 bytes."""
    changed = bytearray(content)
    for edit in (edits[:15], edits[15:30], edits[30:])[: edits[0] % 3 + 1]:
        start = int.from_bytes(edit[1:5], "big") % len(content)
        kind, cut, put, new = edit[5] % 3, edit[6] % 9, edit[7] % 9, edit[7:]
        if kind == 0:
            changed[start : start + cut] = new[:put]
        elif kind == 1:
            changed[start : start + 1] = bytes([32 + new[0] % 95])
        else:
            changed[start : start + 1] = bytes(b ^ 1 << new[0] % 8 for b in changed[start:][:1])
    return bytes(changed)


def read(path, content, reader):
    """Reads a file of this content: a right answer or a ValueError of one line."""
    path.write_bytes(content)
    try:
        reader(path)
    except ValueError as error:
        assert "\n" not in str(error), error
        assert str(path.parent) in str(error) or reader is read_config


@pytest.mark.parametrize("name", READERS)
def test_an_undamaged_file_is_read(tmp_path, name):
    reader, content = READERS[name]
    path = tmp_path / name
    path.write_bytes(content)
    reader(path)


@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=NUM_MUTATIONS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(edits=st.binary(min_size=45, max_size=45))
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name, edits):
    reader, content = READERS[name]
    read(tmp_path / name, damaged(content, edits), reader)


def claiming(shape, dtype="<f8", content=b""):
    """An .npz of 1 kB whose arrays claim this shape."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("mu", "sigma", "images", "arr_0"):
            archive.writestr(f"{name}.npy", array)
    return file.getvalue()


def bomb():
    """An .npz of 100 kB whose images have 100 MB of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        header = "{'descr': '|u1', 'fortran_order': False, 'shape': (25600, 64, 64, 1), }"
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        with archive.open("images.npy", "w") as member:
            member.write(start)
            for _ in range(100):
                member.write(bytes(2**20))
    return file.getvalue()


HOSTILE = {
    "a terabyte": claiming((10**12,)),
    "negative": claiming((-1,)),
    "more than any number": claiming((10**30, 10**30)),
    "a float": claiming((1.5,)),
    "objects": claiming((1,), "|O"),
    "nesting": claiming("(" * 5000 + ")" * 5000),
    "no header": b"PK\x05\x06" + bytes(18),
    "an unknown compression": npz(mu=np.zeros(3)).replace(b"\x08\x00", b"\x63\x00"),
    "nested JSON": b"[" * 10**6,
    "a large number": b'{"a": ' + b"9" * 10**5 + b"}",
    "no UTF-8": b"\xff\xfe{}",
    "nothing": b"",
    "a list": b"[[1]]",
    "null": b"null",
    "many lists": b"[" + b"[]," * 350_000 + b"[]]",
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("name", READERS)
def test_a_hostile_file_is_refused_in_one_line_and_little_memory(tmp_path, name, what):
    reader, _ = READERS[name]
    tracemalloc.start()
    read(tmp_path / name, HOSTILE[what], reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_BYTES


@pytest.mark.parametrize("name", ["images.npz", "samples.npz"])
def test_a_small_archive_that_fills_the_memory_is_refused(tmp_path, name):
    content = bomb()
    assert len(content) < 2**18
    path = tmp_path / name
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match="has 10485.* bytes, more than"):
        READERS[name][0](path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_BYTES


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("config.json",)])
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=name):
        READERS[name][0](tmp_path / name)


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {
        "floats": RNG.standard_normal((3, 4)).astype(np.float32),
        "columns": np.asfortranarray(RNG.standard_normal((3, 4))),
        "empty": np.zeros((0, 7), np.uint8),
        "text": np.array("a text"),
        "names": np.array(["a", "bc"]),
        "big": RNG.integers(0, 9, 5).astype(">i4"),
        "true": np.array([True, False]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    with open_npz(tmp_path / "a.npz") as file:
        assert list(file) == list(arrays)
        for name, array in arrays.items():
            found = file[name]
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
            found.flat[:1] = found.flat[:1]  # writable


def test_a_damaged_line_of_the_log_costs_that_line(tmp_path):
    lines = [
        b'{"step": 1, "loss": 1.0}',
        b'{"step": 2, "lo\xffss": 1.0}',
        b'{"step": Infinity, "loss": 1.0}',
        b'{"step": true, "loss": 1.0}',
        b"[" * 100_000,
        b'{"step": 3, "loss": "low"}',
        b"[1, 2]",
        '{"step": 4, "a\u2028b": 1.0}'.encode(),
        b'{"step": 5, "loss": NaN}',
        b'{"step": 6, "lo',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert [record["step"] for record in read_records(tmp_path)] == [1, 4, 5]
