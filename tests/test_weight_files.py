"""Weight files with special and hostile content: a right answer or one line, in little memory."""

import json
import re
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.io import weight_files
from tests.torch_pickles import (
    archive,
    call,
    dict_of,
    named,
    number,
    storage,
    tensor,
    text,
    tuple_of,
    without_archive,
)

MOST_BYTES = 100 * 2**20
SIXTEEN = np.arange(16, dtype=np.float32).tobytes()


def read(path, content):
    """The arrays of a file, and the most memory that reading took."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        return weight_files.read(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES


def one(value, **options):
    return archive(dict_of(a=value), **options)


def old(value, count, content=SIXTEEN):
    return without_archive(dict_of(a=value), count, content).replace(b"tQ", b"NtQ")


HOSTILE = {
    "a storage of a terabyte": (one(tensor(10**12, [2])), "claims 4000000000000 bytes and has 64"),
    "a view of a terabyte": (one(tensor(16, [10**12])), "more than 67108864 bytes of arrays"),
    "an expanded number": (one(tensor(16, [10**12], [0])), "save contiguous tensors"),
    "many expanded numbers": (
        archive(dict_of(**{f"a{i}": tensor(16, [2**22], [0]) for i in range(5)})),
        "'a4' is float32[4194304], more than 67108864 bytes",
    ),
    "a stride beyond": (one(tensor(16, [3], [8])), "claims 68 bytes of storage '0', which has 64"),
    "an offset beyond": (one(tensor(16, [2], offset=15)), "claims 68 bytes of storage '0'"),
    "more than any number": (one(tensor(2**70, [2])), "no storage where one is needed"),
    "a negative count": (one(tensor(-16, [2])), "no storage where one is needed"),
    "a negative side": (one(tensor(16, [-2])), "no view of a storage where one is needed"),
    "a negative stride": (one(tensor(16, [4], [-1], 8)), "no view of a storage"),
    "a hundred dimensions": (one(tensor(16, [1] * 100)), "dimension"),
    "another storage": (one(tensor(16, [2])).replace(b"a/data/0", b"a/data/1"), "'0' is missing"),
    "compressed": (one(tensor(16, [2]), compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "a bomb": (
        one(tensor(2**24, [2]), content=bytes(2**26), compression=zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "big-endian": (one(tensor(16, [2]), byteorder=b"big"), "not little-endian"),
    "two gigabytes of zeros": (
        one(call("builtins", "bytearray", number(2**31))),
        "entry 'a' is a bytearray, not a tensor",
    ),
    "numbers of no file": (
        one(call("torch", "FloatTensor", number(2**31))),
        "reading it would execute torch.FloatTensor",
    ),
    "code": (one(call("os", "system", text("ls"))), "reading it would execute os.system"),
    "a name on two lines": (one(call("os\r", "system")), "reading it would execute os .system"),
    "a grown key": (
        archive(b"}K\x01" + b"\x85q\x00h\x00\x86" * 90 + b"K\x02s"),
        "key of type tuple",
    ),
    "nested": (
        archive(b"}X\x05\x00\x00\x00model" * 9999 + b"}" + b"s" * 9999),
        "'model' is a dict",
    ),
    "in itself": (archive(b"}q\x00X\x05\x00\x00\x00modelh\x00s"), "'model' is a dict"),
    "one name twice": (
        archive(b"}(" + text("1") + tensor(16, [1]) + number(1) + tensor(16, [1]) + b"u"),
        "entry 1 has the name of another one",
    ),
    "a number": (one(number(3)), "entry 'a' is a int, not a tensor"),
    "a storage": (one(storage(16)), "entry 'a' is a Storage, not a tensor"),
    "a list": (archive(b"]"), "holds a list: expected a state dict"),
    "a name of a line": (archive(dict_of(**{"a\nb": number(3)})), r"entry 'a\nb' is a int"),
    "a long name": (archive(dict_of(**{"a" * 10**5: number(3)})), "a' is a int, not a tensor"),
    "quantized": (one(call("torch._utils", "_rebuild_qtensor")), "is a quantized tensor"),
    "sparse": (one(call("torch._utils", "_rebuild_sparse_tensor")), "is a sparse tensor"),
    "nested tensor": (one(call("torch._utils", "_rebuild_nested_tensor")), "is a nested tensor"),
    "meta": (one(call("torch._utils", "_rebuild_meta_tensor_no_storage")), "is a meta tensor"),
    "conjugated": (
        one(tensor(8, [2], kind="ComplexFloatStorage", metadata=dict_of(conj=b"\x88"))),
        "is a lazily conjugated or negated tensor",
    ),
    "four bits": (
        one(
            call(
                *("torch._utils", "_rebuild_tensor_v3"),
                *(storage(64, "UntypedStorage", module="torch.storage"), number(0)),
                *(tuple_of(number(2)), tuple_of(number(1)), b"\x89", b"N"),
                named("torch", "float4_e2m1fn_x2"),
            )
        ),
        "is a torch.float4_e2m1fn_x2 tensor, which NumPy cannot hold",
    ),
    "old, a terabyte": (old(tensor(10**12, [2]), 10**12), "it has"),
    "old, another size": (old(tensor(10**12, [2]), 16), "another size than its tensors"),
    "old, cut": (old(tensor(16, [2]), 16, SIXTEEN[:-1]), "it has"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pytorch_file_is_refused_in_one_line(tmp_path, what):
    content, said = HOSTILE[what]
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read(tmp_path / "a.pt", content)
    assert str(tmp_path / "a.pt") in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


RIGHT = {
    "transposed": (tensor(16, [2, 3], [1, 2]), [[0, 2, 4], [1, 3, 5]]),
    "a part": (tensor(16, [3], [2], offset=9), [9, 11, 13]),
    "a number": (tensor(16, [], offset=3), 3),
    "expanded": (tensor(16, [2, 2], [0, 0], offset=1), [[1, 1], [1, 1]]),
    "empty": (tensor(16, [0, 2]), np.zeros((0, 2))),
    "a parameter": (call("torch._utils", "_rebuild_parameter", tensor(16, [1]), b"\x88"), [0]),
}


@pytest.mark.parametrize("form", ["archive", "old"])
@pytest.mark.parametrize("what", RIGHT)
def test_a_view_of_a_storage_gives_its_numbers(tmp_path, what, form):
    value, expected = RIGHT[what]
    content = one(value, content=SIXTEEN) if form == "archive" else old(value, 16)
    array = read(tmp_path / "a.pt", content)["a"]
    assert array.dtype == np.float32 and array.flags.writeable and array.flags.aligned
    np.testing.assert_array_equal(array, expected)


def test_names_are_text_and_every_byte_of_a_bool_is_true_or_false(tmp_path):
    value = b"}(K\x01" + tensor(3, [3], kind="BoolStorage") + b"N" + tensor(3, [1], offset=2) + b"u"
    found = read(tmp_path / "a.pt", archive(value.replace(b"FloatS", b"BoolS"), b"\0\1\7"))
    assert list(found) == ["1", "None"]
    assert found["1"].view(np.uint8).tolist() == [0, 1, 1]


def safetensors_of(kind, shape, content):
    header = {"a": {"dtype": kind, "shape": shape, "data_offsets": [0, len(content)]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("F8_E4M3", jnp.float8_e4m3fn),
        ("F8_E5M2", jnp.float8_e5m2),
        ("F8_E8M0", jnp.float8_e8m0fnu),
        ("F8_E4M3FNUZ", jnp.float8_e4m3fnuz),
        ("F8_E5M2FNUZ", jnp.float8_e5m2fnuz),
    ],
)
def test_safetensors_of_eight_bits_are_widened(tmp_path, kind, dtype):
    content = bytes(range(256))
    found = read(tmp_path / "a.safetensors", safetensors_of(kind, [16, 16], content))["a"]
    assert found.dtype == np.float32
    expected = np.frombuffer(content, dtype).astype(np.float32).reshape(16, 16)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "kind, shape, said",
    [
        ("F4", [8], "entry 'a' is F4, which NumPy cannot hold"),
        ("F6_E2M3", [4], "cannot"),
        ("Q8", [4], "cannot be read as .safetensors"),
        ("U8", [1] * 99 + [4], "dimension"),
        ("F32", [10**12], "cannot be read as .safetensors"),
    ],
)
def test_other_safetensors_are_refused_in_one_line(tmp_path, kind, shape, said):
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path / "a.safetensors", safetensors_of(kind, shape, bytes(4)))
    assert str(tmp_path / "a.safetensors") in str(error.value) and "\n" not in str(error.value)


DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128", "uint8", "uint16"),
    *("uint32", "uint64", "int8", "int16", "int32", "int64", "bool", "float8_e4m3fn"),
    *("float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)


@pytest.mark.parametrize("form", ["archive", "old"])
def test_pytorchs_own_files_give_the_numbers_of_pytorch(tmp_path, form):
    torch = pytest.importorskip("torch")
    raw, values = torch.arange(256, dtype=torch.uint8), {}
    for name in DTYPES:
        whole = (raw % 2).bool() if name == "bool" else raw.clone().view(getattr(torch, name))
        values |= {name: whole, f"{name} part": whole[3::2], f"{name} last": whole[-1]}
        values[f"{name} turned"] = whole.reshape(2, -1).T
    values["attribute"] = torch.nn.Parameter(torch.ones(2))
    values["attribute"].of = "a layer"
    torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=form == "archive")
    found = weight_files.read(tmp_path / "a.pt")
    assert list(found) == list(values)
    for name, value in values.items():
        wide = value.dtype not in (torch.float16, torch.float64) and value.is_floating_point()
        expected = (value.float() if wide else value).detach().numpy()
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
