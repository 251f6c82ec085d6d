"""The FID Inception network and its weight files, against torch-fidelity's numbers."""

import hashlib
import json
import os
import pickle
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.util.tensor_util import make_tensor_proto

from cfg_jax.metrics import inception, inception_layers, inception_weights
from tests.programs import run_program

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
SHAPES = json.loads((GOLDEN / "inception_state_dict.json").read_text())

# Scopes of TensorFlow's graph, per block, in the order of the state dict.
STEM_SCOPES = "conv conv_1 conv_2 conv_3 conv_4"
SCOPES_OF_35 = (
    "conv tower/conv tower/conv_1 tower_1/conv tower_1/conv_1 tower_1/conv_2 tower_2/conv"
)
SCOPES_OF_17 = (
    "conv tower/conv tower/conv_1 tower/conv_2 tower_1/conv tower_1/conv_1 tower_1/conv_2 "
    "tower_1/conv_3 tower_1/conv_4 tower_2/conv"
)
SCOPES_OF_8 = (
    "conv tower/conv tower/mixed/conv tower/mixed/conv_1 tower_1/conv tower_1/conv_1 "
    "tower_1/mixed/conv tower_1/mixed/conv_1 tower_2/conv"
)
BLOCK_SCOPES = {
    "mixed": SCOPES_OF_35,
    "mixed_1": SCOPES_OF_35,
    "mixed_2": SCOPES_OF_35,
    "mixed_3": "conv tower/conv tower/conv_1 tower/conv_2",
    "mixed_4": SCOPES_OF_17,
    "mixed_5": SCOPES_OF_17,
    "mixed_6": SCOPES_OF_17,
    "mixed_7": SCOPES_OF_17,
    "mixed_8": "tower/conv tower/conv_1 tower_1/conv tower_1/conv_1 tower_1/conv_2 tower_1/conv_3",
    "mixed_9": SCOPES_OF_8,
    "mixed_10": SCOPES_OF_8,
}
SCOPES = STEM_SCOPES.split() + [
    f"{block}/{scope}" for block, scopes in BLOCK_SCOPES.items() for scope in scopes.split()
]


def made_up(name, shape):
    """Weights of the golden files: noise seeded by the name."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    noise = noise.astype(np.float32)
    if noise.ndim >= 2:
        return noise * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if name.endswith("running_var"):
        return np.float32(0.5) + abs(noise)
    return np.float32(name.endswith("weight")) + np.float32(0.1) * noise


@pytest.fixture(scope="module")
def state_dict():
    return {name: made_up(name, shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def weights(state_dict):
    """State dict as read from files, without PyTorch's batch counters."""
    return {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def features(state_dict):
    """images -> Features in two programs: another image size recompiles only the resize."""
    weights = jax.tree.map(jnp.asarray, inception.parameters(state_dict))
    resize = jax.jit(inception.resize_bilinear_tf1, static_argnums=1)
    network = jax.jit(inception.features_of_resized)
    return lambda images: network(weights, resize(images, inception.SIDE))


@pytest.fixture(scope="module")
def golden():
    arrays = dict(np.load(GOLDEN / "inception.npz"))
    return arrays | {"images": arrays["images_nchw_uint8"].transpose(0, 2, 3, 1)}


def constant(name, value):
    return {"name": name, "op": "Const", "attr": {"value": {"tensor": make_tensor_proto(value)}}}


def batch_norm(scope, scaled=True, epsilon=0.001):
    names = ("moving_mean", "moving_variance", "beta", "gamma")
    return {
        "name": f"{scope}/batchnorm",
        "op": "BatchNormWithGlobalNormalization",
        "input": [f"{scope}/Conv2D", *(f"{scope}/batchnorm/{name}" for name in names)],
        "attr": {
            "variance_epsilon": {"f": epsilon},
            "scale_after_normalization": {"b": scaled},
        },
    }


def constants(weights):
    """Constants of the frozen graph for a state dict with 4-d kernels, and some others."""
    convolutions = [k.removesuffix(".conv.weight") for k in weights if k.endswith(".conv.weight")]
    yield constant("ResizeBilinear/size", np.array([299, 299], np.int32))
    yield constant("softmax/weights", np.ascontiguousarray(weights["fc.weight"].T))
    yield constant("softmax/biases", weights["fc.bias"])
    for name, scope in zip(convolutions, SCOPES, strict=True):
        kernel = np.einsum("oihw->hwio", weights[f"{name}.conv.weight"])
        yield constant(f"{scope}/conv2d_params", np.ascontiguousarray(kernel))
        yield constant(f"{scope}/batchnorm/beta", weights[f"{name}.bn.bias"])
        yield constant(f"{scope}/batchnorm/gamma", weights[f"{name}.bn.weight"])
        yield constant(f"{scope}/batchnorm/moving_mean", weights[f"{name}.bn.running_mean"])
        yield constant(f"{scope}/batchnorm/moving_variance", weights[f"{name}.bn.running_var"])


def graph_file(path, nodes):
    path.write_bytes(GraphDef(node=nodes).SerializeToString())
    return path


def small_nodes():
    """All nodes of the graph with one number each, to be refused before they are read."""
    small = {k: np.zeros([1] * len(shape), np.float32) for k, shape in SHAPES.items()}
    return [*constants(small), *(batch_norm(scope) for scope in SCOPES)]


def claiming(shape):
    """A tensor of this shape with one number, which stands for all of them."""
    tensor = make_tensor_proto(np.zeros(1, np.float32))
    tensor.tensor_shape.CopyFrom(TensorShapeProto(dim=[{"size": side} for side in shape]))
    return tensor


def replaced(name, tensor):
    """`small_nodes` with another value of the constants that end in a name."""
    return [
        node | {"attr": {"value": {"tensor": tensor}}} if node["name"].endswith(name) else node
        for node in small_nodes()
    ]


@pytest.fixture(scope="module")
def whole_graph(tmp_path_factory, weights):
    """The weights as a TensorFlow graph, with one batch norm that ignores its gamma."""
    norms = [batch_norm(scope, scaled=scope != "mixed_6/tower_1/conv_4") for scope in SCOPES]
    path = tmp_path_factory.mktemp("graph") / "classify_image_graph_def.pb"
    return graph_file(path, [*constants(weights), *norms])


def message(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# All tests of the network share one compilation, for two images.


@pytest.mark.parametrize(
    "output, expected",
    [
        ("pool3", "pool3_2048"),
        ("logits_unbiased", "logits_unbiased_1008"),
        ("spatial", "spatial_2023"),
    ],
)
def test_features_are_those_of_the_reference_program(features, golden, output, expected):
    actual = getattr(features(golden["images"]), output)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, golden[expected], rtol=0, atol=1e-4)


def test_an_image_has_the_same_features_whatever_is_in_its_batch(features, golden):
    first, second = golden["images"]
    together = features(golden["images"])
    beside_another = features(np.stack([255 - second, first]))
    for one, other in zip(together, beside_another, strict=True):
        np.testing.assert_allclose(one[0], other[1], atol=1e-5)
        assert np.abs(one[1] - other[0]).max() > 0.01


def test_images_of_any_size_are_taken(features):
    colours = np.array([[200, 30, 90], [0, 255, 7]], np.uint8)
    small = np.broadcast_to(colours[:, None, None], (2, 5, 9, 3))
    full = np.broadcast_to(colours[:, None, None], (2, 299, 299, 3))
    for one, other in zip(features(small), features(full), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "images, named",
    [
        (np.zeros((2, 8, 8, 3), np.float32), "float32[2, 8, 8, 3]"),
        (np.zeros((2, 8, 8, 1), np.uint8), "uint8[2, 8, 8, 1]"),
        (np.zeros((2, 3, 8, 8), np.uint8), "uint8[2, 3, 8, 8]"),
        (np.zeros((8, 8, 3), np.uint8), "uint8[8, 8, 3]"),
        (np.zeros((0, 8, 8, 3), np.uint8), "uint8[0, 8, 8, 3]"),
    ],
)
def test_images_of_another_kind_are_refused(images, named):
    for apply in (inception.apply, jax.jit(inception.apply)):
        with pytest.raises(ValueError, match=r"need uint8 \[N, H, W, 3\]") as error:
            apply({}, images)
        assert named in message(error)


def test_features_are_those_of_the_resized_images(golden, monkeypatch):
    monkeypatch.setattr(inception, "features_of_resized", lambda weights, images: (weights, images))
    weights, resized = inception.apply("weights", golden["images"])
    assert weights == "weights"
    np.testing.assert_array_equal(resized, inception.resize_bilinear_tf1(golden["images"], 299))


def float32_reference(image, side):
    """TF1's resize of one image per pixel in float32, columns before rows."""
    height, width, _ = image.shape
    source = image.astype(np.float32)

    def neighbours(i, size):
        place = np.float32(i) * (np.float32(size) / np.float32(side))
        low = int(np.floor(place))
        return low, min(low + 1, size - 1), place - np.float32(low)

    lefts, rights, x_shares = zip(*(neighbours(j, width) for j in range(side)), strict=True)
    x_shares = np.array(x_shares, np.float32)[:, None]
    out = np.empty((side, side, 3), np.float32)
    for i in range(side):
        top, bottom, y_share = neighbours(i, height)
        rows = []
        for row in (source[top], source[bottom]):
            left, right = row[list(lefts)], row[list(rights)]
            rows.append(left + (right - left) * x_shares)
        out[i] = rows[0] + (rows[1] - rows[0]) * y_share
    return out


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (37, 53), (64, 64), (299, 299), (300, 400)])
def test_resize_is_that_of_tf1_to_the_last_bit(size):
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    expected = np.stack([float32_reference(image, 299) for image in images])

    @jax.jit
    def resized_and_scaled(images):
        resized = inception.resize_bilinear_tf1(images, 299)
        return resized, (resized - 128) / 128

    resized, scaled = resized_and_scaled(images)
    np.testing.assert_array_equal(resized, expected)
    np.testing.assert_array_equal(scaled, (expected - np.float32(128)) / np.float32(128))


def test_resize_has_no_half_pixel_centres_and_repeats_the_last_pixel():
    images = np.array([0, 100], np.uint8).reshape(1, 1, 2, 1)
    resized = inception.resize_bilinear_tf1(images, 4)
    np.testing.assert_array_equal(resized[0, :, :, 0], [[0, 50, 100, 100]] * 4)


def test_a_mean_does_not_count_the_padding():
    ones = np.ones((1, 4, 5, 2), np.float32)
    np.testing.assert_array_equal(inception_layers.pool(ones, inception_layers.MEAN), ones)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: d.pop("fc.bias"), "1 missing (fc.bias):"),
        (lambda d: d.update({"AuxLogits.fc.bias": d["fc.bias"]}), "1 unknown (AuxLogits.fc.bias):"),
        (
            lambda d: d.update({"fc.weight": d["fc.weight"][:1000]}),
            "of another shape or type (fc.weight is float32[1000, 2048], not float32[1008, 2048])",
        ),
        (
            lambda d: d.update({"fc.bias": d["fc.bias"].astype(np.float16)}),
            "1 of another shape or type (fc.bias is float16[1008], not float32[1008])",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name(state_dict, change, said):
    changed = dict(state_dict)
    change(changed)
    with pytest.raises(ValueError, match="pt_inception-2015-12-05") as error:
        inception.parameters(changed)
    assert said in message(error)


def test_all_faults_of_a_state_dict_are_in_one_line():
    with pytest.raises(ValueError) as error:
        inception.parameters({"weight": np.zeros(3, np.float32)})
    assert "472 missing (Conv2d_1a_3x3.conv.weight, " in message(error)
    assert "1 unknown (weight)" in message(error)


def test_the_frozen_graph_gives_the_state_dict(whole_graph, weights):
    read = inception_weights.load_weights(whole_graph)
    assert read.keys() == weights.keys()
    # mixed_6/tower_1/conv_4 does not use its gamma.
    unscaled = "Mixed_6d.branch7x7dbl_5.bn.weight"
    np.testing.assert_array_equal(read[unscaled], np.ones(192, np.float32))
    assert not [k for k in read if k != unscaled and not np.array_equal(read[k], weights[k])]


@pytest.mark.parametrize(
    "nodes, said",
    [
        (lambda: [], "472 missing (conv/conv2d_params, "),
        (lambda: [n for n in small_nodes() if n["name"] != "mixed_4/conv/batchnorm/gamma"],
         "1 missing (mixed_4/conv/batchnorm/gamma)"),
        (lambda: [*small_nodes(), constant("mixed_11/conv/conv2d_params", np.zeros(1))],
         "1 unknown (mixed_11/conv/conv2d_params)"),
        (lambda: [*small_nodes(), batch_norm("conv", epsilon=1e-5)], "epsilon 1e-05, not 0.001"),
        (lambda: replaced("softmax/weights", claiming([10**6, 10**6])),
         "softmax/weights claims the shape [1000000, 1000000]"),
        (lambda: replaced("softmax/weights", claiming([-1])), "claims the shape [-1]"),
        (lambda: replaced("softmax/weights", TensorProto()), "softmax/weights has no values"),
        (lambda: replaced("softmax/biases", make_tensor_proto(np.zeros(1))),
         "softmax/biases has no values of float32, its type is 2"),
        (lambda: replaced("conv/conv2d_params", claiming([4])), "_params claims the shape [4]"),
        (lambda: replaced("batchnorm/beta", claiming([2**21])),  # 8 MB each
         "batchnorm/beta claims the shape [2097152]"),
        (lambda: [*small_nodes(), constant("a\nb/conv2d_params", np.zeros(1))],
         "1 unknown (a b/conv2d_params)"),
        (small_nodes, "Conv2d_1a_3x3.conv.weight is float32[1, 1, 1, 1], not float32[32, 3, 3, 3]"),
    ],
)  # fmt: skip
def test_another_graph_is_refused_by_its_nodes(tmp_path, nodes, said):
    with pytest.raises(ValueError) as error:
        inception_weights.load_weights(graph_file(tmp_path / "graph.pb", nodes()))
    assert said in message(error)


def test_the_program_writes_what_it_read_and_says_its_digest(tmp_path, whole_graph, weights):
    out = tmp_path / "new" / "inception.safetensors"
    done = run_program("launch.import_inception", f"--weights={whole_graph}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (whole_graph, out)]
    assert [line.split()[-1] for line in done.stdout.splitlines()] == digests
    from_graph = inception_weights.load_weights(whole_graph)
    from_store = inception_weights.load_weights(out)
    assert from_store.keys() == weights.keys()
    assert all(np.array_equal(from_store[k], from_graph[k]) for k in from_graph)
    # The same weights give the same bytes.
    assert inception_weights.store(tmp_path / "again.safetensors", from_graph) == digests[1]
    assert inception_weights.sha256_of_weights(from_graph) == digests[1]


@pytest.mark.parametrize("name", ["weights.pkl", "weights.npz", "weights.pth", "a.safetensors"])
def test_a_file_that_cannot_be_had_is_named_with_the_one_to_get(tmp_path, name):
    with pytest.raises(ValueError) as error:
        inception_weights.load_weights(tmp_path / name)
    said = message(error)
    assert name in said and "pt_inception-2015-12-05-6726825d.pth" in said
    assert "pytorch-fid" in said and "--weights=FILE" in said


@pytest.mark.parametrize("suffix", [".safetensors", ".pb", ".pth"])
def test_a_damaged_file_is_refused(tmp_path, suffix):
    whole = {
        ".safetensors": safetensors.numpy.save({"fc.bias": np.zeros(1008, np.float32)}),
        ".pb": GraphDef(node=small_nodes()).SerializeToString(),
        ".pth": b"PK\x03\x04 the beginning of a zip archive",
    }
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(whole[suffix][:-10])
    with pytest.raises(ValueError, match="damaged") as error:
        inception_weights.load_weights(damaged)
    assert str(damaged) in message(error)


def test_only_safetensors_are_written(tmp_path, weights):
    with pytest.raises(ValueError, match=r"weights\.pth: the file to write must end in"):
        inception_weights.store(tmp_path / "weights.pth", weights)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.graph_pb2", None)
    (tmp_path / "graph.pb").touch()
    with pytest.raises(ValueError, match="pip install tensorboard") as error:
        inception_weights.load_weights(tmp_path / "graph.pb")
    message(error)


def test_a_pytorch_file_gives_the_state_dict(tmp_path, state_dict, weights):
    torch = pytest.importorskip("torch")
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    torch.save({name: torch.from_numpy(array) for name, array in state_dict.items()}, path)
    read = inception_weights.load_weights(path)
    assert read.keys() == weights.keys()
    assert all(np.array_equal(read[k], weights[k]) for k in read)


class Malicious:
    """Creates a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pytorch_file_that_runs_code_is_refused_and_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    trace = tmp_path / "trace"
    torch.save({"fc.bias": Malicious(str(trace))}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Malicious(str(trace)), protocol=2))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ValueError, match="would execute") as error:
            inception_weights.load_weights(tmp_path / name)
        assert "pt_inception-2015-12-05-6726825d.pth" in message(error)
    assert not trace.exists()
