"""JiT's networks from their state dicts: golden files, and the six published configs.

The golden files were made with the authors' program (LTH14/JiT, commit cbc743a, MIT), on weights
derived from their names.
"""

import functools
import gzip
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.interop import jit
from cfg_jax.models import positions
from tests import made_up

FOLDER = made_up.GOLDEN / "jit"
NETWORKS = ("net_in_context", "net_plain", "net_odd_heads")
MANIFEST = json.loads(gzip.decompress((FOLDER / "jit_state_dicts.json.gz").read_bytes()))["models"]


@functools.cache
def golden(name):
    """(config, state dict, arrays with NHWC images) of a golden file."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    config, keys = (json.loads(str(arrays.pop(key))) for key in ("config", "keys"))
    weights = jit_weights({key: tuple(shape) for key, shape in keys})
    weights["pos_embed"] = arrays["pos_embed"][None]
    for key in [key for key in arrays if "_nchw" in key]:
        arrays[key.replace("_nchw", "")] = arrays.pop(key).transpose(0, 2, 3, 1)
    return config, weights, arrays


def jit_weights(shapes):
    """Weights of a state dict that are a function of its keys, as in the golden files."""
    weights = made_up.weights(shapes)
    for key in ("y_embedder.embedding_table.weight", "in_context_posemb"):
        if key in weights:
            scale = np.float32(math.sqrt(math.prod(weights[key].shape[1:])))
            weights[key] = np.float32(0.5) * (weights[key] * scale)
    return weights


@functools.cache
def imported(name):
    config, weights, _ = golden(name)
    return jit.from_state_dict(weights, config)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_golden_network_is_reproduced_from_its_state_dict(name):
    arrays = golden(name)[2]
    out = imported(name).raw(arrays["x"], arrays["t"], arrays["y"])
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, arrays["out_float64"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_keys_of_a_golden_network_are_expected_in_their_order(name):
    config, weights, _ = golden(name)
    expected = [(key, value.shape) for key, value in weights.items()]
    assert list(jit.expected_shapes(config).items()) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_the_tables_of_positions_are_the_golden_ones(name):
    config, _, arrays = golden(name)
    side, width = config["input_size"] // config["patch_size"], config["hidden_size"]
    table = positions.position_table(side, side, width)
    np.testing.assert_array_equal(table, arrays["pos_embed"])
    head_width, before = width // config["num_heads"], config["in_context_len"]
    found = positions.rotations(side, side, head_width, before)
    for ours, theirs in zip(found, ("rope_cos", "rope_sin"), strict=True):
        np.testing.assert_allclose(np.repeat(ours, 2, axis=1), arrays[theirs], rtol=0, atol=1e-6)


def test_a_predict_is_the_noise_that_remains_with_the_golden_x_hat():
    config, weights, arrays = golden("net_plain")
    n, t = 2.0, np.float64(arrays["t"])[:, None, None, None]
    network = jit.from_state_dict(weights, config | {"noise_scale": n})
    scale = np.sqrt(t**2 + (1 - t) ** 2 * n**2)
    with np.errstate(divide="ignore"):
        logsnr = 2 * np.log(t / ((1 - t) * n)).ravel()
    z = jnp.asarray(arrays["x"] / scale, jnp.float32)
    output = network.predict(z, jnp.asarray(logsnr, jnp.float32), arrays["y"])
    np.testing.assert_allclose(output.x_hat, arrays["out_float64"], rtol=0, atol=1e-5)
    eps_hat = output.eps_hat
    # z = t x + (1 - t) n eps, whose eps is not determined at t = 1
    noise = (1 - t) * n * np.where(t < 1, eps_hat, 0)
    np.testing.assert_allclose(
        noise, (arrays["x"] - t * arrays["out_float64"]) * (t < 1), atol=2e-5
    )


def test_a_scalar_logsnr_counts_for_every_example_and_infinite_noise_is_finite():
    network, arrays = imported("net_plain"), golden("net_plain")[2]
    z, y = arrays["x"], arrays["y"]
    each = network.predict(z, jnp.full(7, -1.0), y)
    np.testing.assert_array_equal(network.predict(z, jnp.float32(-1), y).x_hat, each.x_hat)
    noise = network.predict(z, jnp.float32(-jnp.inf), y)
    np.testing.assert_allclose(noise.eps_hat, z)
    np.testing.assert_allclose(noise.x_hat, network.raw(z, 0.0, y), atol=1e-6)


@pytest.mark.parametrize("name", MANIFEST)
def test_a_published_network_has_the_published_keys_and_count(name):
    published, shapes = MANIFEST[name], jit.expected_shapes(name)
    expected = [(key.removeprefix("net."), tuple(shape)) for key, shape in published["state_dict"]]
    assert list(shapes.items()) == expected
    assert sum(map(math.prod, shapes.values())) == published["parameters"]
    assert published["parameters"] - math.prod(shapes["pos_embed"]) == published["trainable"]


def test_presets_are_the_six_published_names_with_their_sizes():
    assert list(jit.PRESETS) == list(MANIFEST)
    for name, published in MANIFEST.items():
        imported = jit.abstract(name)
        network = imported.network
        assert jit.PRESETS[name]["input_size"] == published["image_size"]
        assert imported.noise_scale == published["noise_scale"]
        assert network.dropout == published["proj_dropout"]
        if network.dropout:
            quarter = network.depth // 4
            assert [*range(quarter, 3 * quarter)] == published["proj_dropout_blocks"]
    with pytest.raises(ValueError, match="name='JiT-G/16' is unknown: choose one of JiT-B/16, "):
        jit.expected_shapes("JiT-G/16")


def test_a_prefix_is_taken_off_and_the_positions_of_the_file_are_kept():
    config, weights, _ = golden("net_plain")
    moved = {f"net.{key}": value for key, value in weights.items()}
    moved["net.pos_embed"] = weights["pos_embed"] + np.float32(1e-4)
    params = jit.from_state_dict(moved, config).params
    np.testing.assert_array_equal(params["position"], moved["net.pos_embed"][0])
    expected = imported("net_plain").params
    np.testing.assert_array_equal(
        params["blocks"]["qkv"]["kernel"], expected["blocks"]["qkv"]["kernel"]
    )


def test_half_precision_weights_become_float32():
    config, weights, _ = golden("net_plain")
    halves = {key: value.astype(np.float16) for key, value in weights.items()}
    params = jit.from_state_dict(halves, config).params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_array_equal(params["out"]["bias"], halves["final_layer.linear.bias"])


def test_every_number_of_a_state_dict_is_used_once_and_the_rest_is_padding():
    weights, params = golden("net_in_context")[1], imported("net_in_context").params
    theirs = np.concatenate([value.ravel() for value in weights.values()])
    ours = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    hidden, padded = 170, 256
    margin = 4 * (padded - hidden) * (3 * 64 + 2)  # 4 blocks of width 64
    assert ours.size == theirs.size + margin
    np.testing.assert_array_equal(
        np.sort(ours), np.sort(np.concatenate([theirs, np.zeros(margin, np.float32)]))
    )


def test_a_network_is_an_argument_of_a_jitted_function_with_parameters_for_leaves():
    network = imported("net_plain")
    doubled = jax.jit(lambda n: jax.tree.map(lambda leaf: 2 * leaf, n))(network)
    assert doubled.network == network.network and doubled.shape == (12, 12, 3)
    bias = doubled.params["embed"]["bias"]
    np.testing.assert_array_equal(bias, 2 * network.params["embed"]["bias"])


def test_a_label_that_is_none_gives_nan():
    arrays = golden("net_plain")[2]
    labels = jnp.array([10, 11, -1, 0, 9, 10, 1000])
    out = imported("net_plain").raw(arrays["x"], 0.5, labels)
    unknown = [False, True, True, False, False, False, True]
    assert np.isnan(out).all(axis=(1, 2, 3)).tolist() == unknown


MISTAKES = {
    "missing": (lambda w: w.pop("pos_embed"), r"1 missing \(pos_embed\)"),
    "extra": (lambda w: w.update(more=np.zeros(2)), r"1 unknown \(more\)"),
    "misshapen": (
        lambda w: w.update({"blocks.1.mlp.w3.weight": np.zeros((48, 256), np.float32)}),
        r"blocks\.1\.mlp\.w3\.weight is float32\[48, 256\], not floating\[48, 128\]",
    ),
    "integers": (
        lambda w: w.update({"blocks.0.norm1.weight": np.ones(48, int)}),
        r"blocks\.0\.norm1\.weight is int64\[48\], not floating\[48\]",
    ),
    "infinite": (
        lambda w: w.update({"blocks.0.norm1.weight": np.full(48, np.inf, np.float32)}),
        r"1 with nan or inf \(blocks\.0\.norm1\.weight\)",
    ),
    "two": (
        lambda w: w.update({"net.pos_embed": w.pop("pos_embed")}),
        r"1 missing \(pos_embed\); 1 unknown \(net\.pos_embed\)",
    ),
    "many": (lambda w: w.clear(), r"56 missing \(pos_embed, t_embedder\.mlp\.0\.weight, .*\)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_state_dict_that_does_not_fit_is_refused_with_its_keys_named(mistake):
    change, said = MISTAKES[mistake]
    config, weights, _ = golden("net_plain")
    weights = dict(weights)
    change(weights)
    with pytest.raises(ValueError, match=said) as error:
        jit.from_state_dict(weights, config)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_dit_is_recognised_and_refused_for_its_latents():
    shapes = {"x_embedder.proj.weight": (1152, 4, 2, 2), "x_embedder.proj.bias": (1152,)}
    shapes |= {f"blocks.{i}.mlp.fc1.weight": (4608, 1152) for i in range(28)}
    state_dict = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    said = r"a DiT's \(depth 28, width 1152, patch 2\).* 4-channel latents, .* autoencoder"
    with pytest.raises(ValueError, match=said) as error:
        jit.from_state_dict(state_dict, "JiT-B/16")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hiden_size": 48}, "hiden_size is not an argument of JiT: give input_size"),
        ({"mlp_ratio": 2.0}, r"mlp_ratio=2\.0 cannot be imported: give 4\.0"),
        ({"attn_drop": 0.1}, r"attn_drop=0\.1 cannot be imported"),
        ({"noise_scale": 0}, "noise_scale=0: give a number above 0"),
        ({"input_size": 13}, "multiples of 4"),
    ],
)
def test_a_config_that_cannot_be_imported_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        jit.expected_shapes(golden("net_plain")[0] | change)


def test_an_incomplete_config_is_refused():
    config = {key: value for key, value in golden("net_plain")[0].items() if key != "depth"}
    with pytest.raises(ValueError, match="the config has no depth: it needs input_size, "):
        jit.expected_shapes(config)


def test_inputs_that_the_network_cannot_take_are_refused_before_it_is_compiled():
    network, arrays = imported("net_plain"), golden("net_plain")[2]
    x, t, y = arrays["x"], arrays["t"], arrays["y"]
    for call, said in [
        (lambda: network.raw(x[:, :8], t, y), r"z of shape \(7, 8, 12, 3\)"),
        (lambda: network.raw(x, t, None), "labels of shape None"),
        (lambda: network.raw(x, t, y[:1]), r"labels of shape \(1,\)"),
        (lambda: network.raw(x, t[:2], y), r"t of shape \(2,\)"),
        (lambda: network.raw(x, t, y / 2), "labels"),
        (lambda: network.predict(x, t[:2], y), r"logsnr of shape \(2,\)"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
