"""TFDS folders with damaged or hostile metadata: the data set, or one line, and no code run."""

import json
import os
import sys
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfg_jax.data import open_source, packaged, preparation
from cfg_jax.data.opening import open_unchecked
from cfg_jax.data.sources import Form
from tests.data_files import EncodedPictures, write_encoded
from tests.test_hostile_files import MOST_BYTES, damaged, picture

INFO, FEATURES, LABELS = "dataset_info.json", "features.json", "label.labels.txt"
CODED, FILES = "encoded_pictures", "from_files"
"""A data set whose features are those of a class, and one whose features are those of files."""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """{name: {file: bytes}} of both data sets."""
    root = tmp_path_factory.mktemp("original")
    write_encoded(root, [picture("png")] * 4)
    found = {path.name: path.read_bytes() for path in (root / CODED / "1.0.0").iterdir()}
    renamed = {
        name.replace(CODED, FILES): content.replace(CODED.encode(), FILES.encode())
        for name, content in found.items()
    }
    return {CODED: found, FILES: renamed}


def written(root, name, files):
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


def read(name, root, whole=True):
    """Opens a data set: it has its examples, or an error has one line and names the folder."""
    try:
        if whole:
            source = open_source(name, "train", data_dir=str(root), image_size=8)
        else:
            source, _ = open_unchecked(name, "train", str(root), Form(image_size=8))
        assert len(source) == 4
        return None
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        assert str(root) in str(error) or name in str(error)
        return str(error)


@pytest.mark.parametrize(
    "name, file, count",
    [(CODED, INFO, 500), (FILES, INFO, 100), (FILES, FEATURES, 500), (FILES, LABELS, 50)],
)
def test_damaged_metadata_cost_one_line(tmp_path, original, name, file, count):
    folder = written(tmp_path, name, original[name])
    assert read(name, tmp_path) is None

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(edits=st.binary(min_size=45, max_size=45))
    def check(edits):
        (folder / file).write_bytes(damaged(original[name][file], edits))
        read(name, tmp_path, whole=False)

    check()


def changed(**fields):
    return lambda values: values | fields


def split(**fields):
    return lambda values: values | {"splits": [values["splits"][0] | fields]}


def feature(name, **fields):
    def change(values):
        values["featuresDict"]["features"][name] |= fields
        return values

    return change


def shape(*sides):
    return feature("image", image={"dtype": "uint8", "shape": {"dimensions": sides}})


def classes(count):
    return feature("label", classLabel={"numClasses": count})


def sequences(values):
    inner = {"pythonClassName": "tensorflow_datasets.core.features.scalar.Scalar"}
    for _ in range(300):
        inner = {"pythonClassName": "a.b", "sequence": {"feature": inner}}
    values["featuresDict"]["features"]["deep"] = inner
    return values


INFOS = {
    "nesting": b"[" * 10**6,
    "no JSON": b"",
    "a number": b"3",
    "null": b"null",
    "no UTF-8": b"\xff\xfe{}",
    "a large number": b'{"name": ' + b"9" * 10**5 + b"}",
    "no fields": b"{}",
    "a version of two lines": changed(version="a\nb"),
    "a format of two lines": changed(fileFormat="a\nb"),
    "a field of two lines": changed(**{"a\nb": 1}),
    "a name above": changed(splits=[], name="../a\nb"),
    "no splits": changed(splits=[]),
    "another split": split(name="a b"),
    "a split without a name": split(name=""),
    "a negative shard": split(shardLengths=["-4"]),
    "negative and positive": split(shardLengths=["-4", "8"]),
    "a terabyte": split(shardLengths=[str(10**12)]),
    "the largest numbers": split(shardLengths=[str(2**63 - 1)] * 3),
    "beyond the largest": split(shardLengths=[str(2**70)]),
    "a fraction": split(shardLengths=[1.5]),
    "text": split(shardLengths="4"),
    "no shards": split(shardLengths=[]),
    "many shards": split(shardLengths=["1"] * 1000),
    "a file elsewhere": split(filepathTemplate="../../../../../../../etc/passwd"),
    "a pipe as a shard": split(filepathTemplate="{DATASET}-pipe"),
    "an odd template": split(filepathTemplate="{A}{"),
}

FEATURE_FILES = {
    "nesting": b"[" * 10**6,
    "no JSON": b"",
    "null": b"null",
    "a list": b"[]",
    "no UTF-8": b"\xff",
    "no fields": b"{}",
    "not a dict": lambda values: values["featuresDict"]["features"]["label"],
    "many classes": classes(str(10**9)),
    "no classes": classes("0"),
    "a negative number of classes": classes("-1"),
    "half a class": classes(1.5),
    "negative images": shape("-2", "-3", "3"),
    "five axes": shape("2", "2", "2", "2", "3"),
    "no class": feature("image", pythonClassName="nowhere"),
    "a function": feature("image", pythonClassName="os.system"),
    "another module": feature("image", pythonClassName="tests_trap.Trap"),
    "another module, as before 4.3": lambda values: {"type": "tests_trap.Trap", "content": {}},
    "another message": lambda values: {
        "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "proto_cls": "tests_trap.Trap",
        "content": {},
    },
    "deep sequences": sequences,
}

HOSTILE = [
    *((name, INFO, what) for name in (CODED, FILES) for what in INFOS),
    *((FILES, FEATURES, what) for what in FEATURE_FILES),
]


@pytest.mark.parametrize("name, file, what", HOSTILE)
def test_hostile_metadata_are_refused_in_one_line(
    tmp_path, original, monkeypatch, name, file, what
):
    change = (INFOS if file == INFO else FEATURE_FILES)[what]
    files = dict(original[name])
    if callable(change):
        change = json.dumps(change(json.loads(files[file]))).encode()
    folder = written(tmp_path, name, files | {file: change})
    if "classes" in what:
        (folder / LABELS).unlink()
    os.mkfifo(folder / f"{name}-pipe")
    (tmp_path / "tests_trap.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    tracemalloc.start()
    message = read(name, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message is not None and peak < MOST_BYTES
    assert "tests_trap" not in sys.modules


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to itself"])
@pytest.mark.parametrize("file", [INFO, FEATURES, LABELS])
def test_metadata_that_are_no_files_are_refused_and_not_waited_for(tmp_path, original, file, kind):
    path = written(tmp_path, FILES, original[FILES]) / file
    path.unlink()
    makers = {"pipe": os.mkfifo, "folder": os.mkdir, "link to itself": lambda p: os.symlink(p, p)}
    makers[kind](path)
    assert file in read(FILES, tmp_path)


def test_a_class_of_an_imported_module_is_no_fault_and_a_folder_being_written_is_skipped(
    tmp_path, original
):
    written(tmp_path, CODED, original[CODED])
    written(tmp_path, f"{CODED}/incomplete.0", {FEATURES: b"{"})
    features = json.loads(original[CODED][FEATURES])
    features["featuresDict"]["features"]["own"] = {"pythonClassName": f"{__name__}.Own"}
    written(tmp_path, CODED, {FEATURES: json.dumps(features).encode()})
    assert read(CODED, tmp_path) is None


def test_a_packaged_data_set_with_damaged_metadata_costs_one_line(tmp_path, original):
    written(tmp_path, CODED, original[CODED] | {INFO: b"{"})
    with pytest.raises(ValueError, match="delete it and prepare it again") as error:
        packaged.prepare_packaged(EncodedPictures, str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_record_costs_one_line(tmp_path, original):
    (shard,) = (file for file in original[CODED] if "array_record" in file)
    content = bytearray(original[CODED][shard])
    content[150:250] = bytes(100)
    written(tmp_path, CODED, original[CODED] | {shard: bytes(content)})
    assert read(CODED, tmp_path) is not None


def test_the_folder_of_a_data_set_is_found_for_every_form_of_its_name(tmp_path, original):
    written(tmp_path, CODED, original[CODED] | {INFO: b"{"})
    for name in (CODED, "EncodedPictures", f"{CODED}:1.0.0"):
        with pytest.raises(ValueError, match=str(tmp_path / CODED)):
            preparation.find_builder(name, str(tmp_path))
