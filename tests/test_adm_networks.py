"""Each architecture option that ADM compares, in isolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cfg_jax.models import Classifier, UNet
from cfg_jax.models.blocks import (
    Attention,
    AttentionPool,
    Downsample,
    ResBlock,
    Upsample,
)
from tests.tiny import randomised, small_unet

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def drawn(layer, *given):
    """Parameters without zeros."""
    return randomised(jax.eval_shape(layer.init, jax.random.key(0), *given)["params"])


def apply(layer, params, *given):
    return jax.jit(layer.apply)({"params": params}, *given)


def shapes(net, z, *rest):
    return jax.tree.map(jnp.shape, jax.eval_shape(net.init, jax.random.key(0), z, *rest)["params"])


EXAMPLE = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), jnp.zeros(1, jnp.int32)


# float64 NumPy versions of the layers, for a complete block.


def silu(h):
    return h / (1 + np.exp(-h))


def linear(p, h):
    return h @ p["kernel"].reshape(-1, p["kernel"].shape[-1]) + p["bias"]


def conv3(p, h):
    height, width = h.shape[1:3]
    padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, a : a + height, b : b + width] for a in range(3) for b in range(3)]
    kernels = p["kernel"].reshape(9, *p["kernel"].shape[2:])
    return sum(tap @ kernel for tap, kernel in zip(taps, kernels, strict=True)) + p["bias"]


def group_norm(p, h, groups):
    split = h.reshape(*h.shape[:-1], groups, -1)
    axes = (1, 2, 4)
    mean, variance = split.mean(axes, keepdims=True), split.var(axes, keepdims=True)
    normed = (split - mean) / np.sqrt(variance + 1e-5)
    return normed.reshape(h.shape) * p["scale"] + p["bias"]


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("adagn", [True, False])
def test_a_residual_block_scales_a_norm_or_adds_to_the_features_and_keeps_the_variance(
    adagn, rescale
):
    h, emb = normal(2, 4, 4, 4), normal(2, 6)
    block = ResBlock(channels=8, norm_groups=2, adagn=adagn, rescale=rescale)
    params = drawn(block, h, emb, None)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x = np.float64(h)
    inner = conv3(p["conv_in"], silu(group_norm(p["norm_in"], x, 2)))
    said = linear(p["emb"], silu(np.float64(emb)))[:, None, None]
    if adagn:
        scale, shift = said[..., :8], said[..., 8:]
        inner = group_norm(p["norm_out"], inner, 2) * (1 + scale) + shift
    else:
        inner = group_norm(p["norm_out"], inner + said, 2)
    expected = linear(p["conv_skip"], x) + conv3(p["conv_out"], silu(inner))
    expected /= np.sqrt(2) if rescale else 1
    np.testing.assert_allclose(apply(block, params, h, emb, None), expected, rtol=1e-4, atol=1e-4)


def test_attention_divides_its_sum_by_the_root_of_two_where_asked():
    h = normal(1, 3, 3, 4)
    plain, rescaled = (Attention(1, 2, rescale=rescale) for rescale in (False, True))
    params = drawn(plain, h)
    expected = apply(plain, params, h) / np.sqrt(2)
    np.testing.assert_allclose(apply(rescaled, params, h), expected, rtol=1e-5)


def test_a_strided_convolution_is_centred_on_every_second_pixel():
    h, layer = normal(1, 6, 6, 2), Downsample()
    params = drawn(layer, h)
    out = apply(layer, params, h)
    assert out.shape == (1, 3, 3, 2)
    around = np.pad(np.float64(h[0]), ((1, 1), (1, 1), (0, 0)))
    for row, column in [(0, 0), (1, 2), (2, 1)]:
        # Padding moves pixel 2 row to 2 row + 1, the center of these three.
        window = around[2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        expected = np.einsum("abi,abio->o", window, params["conv"]["kernel"])
        expected = expected + params["conv"]["bias"]
        np.testing.assert_allclose(out[0, row, column], expected, rtol=1e-4, atol=1e-5)


def test_the_way_up_doubles_every_pixel_before_its_convolution():
    h, layer = normal(1, 3, 3, 2), Upsample()
    params = drawn(layer, h)
    out = apply(layer, params, h)
    doubled = np.kron(np.float64(h[0]), np.ones((2, 2, 1)))[None]
    p = jax.tree.map(np.float64, params["conv"])
    np.testing.assert_allclose(out, conv3(p, doubled), rtol=1e-4, atol=1e-5)


def test_resampling_has_the_parameters_of_one_convolution_or_of_a_residual_block():
    by_convolution = shapes(small_unet(biggan_updown=False), *EXAMPLE)
    assert by_convolution["down_0"] == {"conv": {"kernel": (3, 3, 8, 8), "bias": (8,)}}
    assert by_convolution["up_1"] == {"conv": {"kernel": (3, 3, 16, 16), "bias": (16,)}}
    by_block = shapes(small_unet(), *EXAMPLE)
    assert by_block["down_0"].keys() == {"norm_in", "conv_in", "emb", "norm_out", "conv_out"}
    assert by_block["down_0"]["conv_out"]["kernel"] == (3, 3, 8, 8)
    assert by_block["up_1"]["conv_in"]["kernel"] == (3, 3, 16, 16)


def modules_of(net, *given):
    """Modules of one call of the network, by path."""
    found = {}

    def record(call, args, kwargs, context):
        found["/".join(context.module.path)] = context.module
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(net.init, jax.random.key(0), *given)
    return found


def given_to(name, net, params, **arguments):
    """First two arguments of the network's module `name`; later modules are not compiled."""

    def run(arguments):
        seen = []

        def record(call, args, kwargs, context):
            if context.module.name == name:
                seen.append((*args, None)[:2])
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            net.apply({"params": params}, **arguments)
        return seen[0]

    return jax.jit(run)(arguments)


CHOICES = dict(
    adagn=False,
    biggan_updown=False,
    rescale_residual=True,
    qkv_order="heads_qkv",
    num_heads=2,
    dropout=0.3,
    dtype="bfloat16",
)


@pytest.mark.parametrize("remat", [False, True])
def test_every_choice_reaches_every_block_of_the_unet(remat):
    found = modules_of(small_unet(**CHOICES, remat=remat), *EXAMPLE)
    blocks = [module for module in found.values() if isinstance(module, ResBlock)]
    attention = [module for module in found.values() if isinstance(module, Attention)]
    assert len(blocks) == 2 + 2 + 4 and len(attention) == 1 + 1 + 2
    for block in blocks:
        assert (block.adagn, block.rescale, block.dropout) == (False, True, 0.3)
        assert block.resample is None and block.dtype == jnp.bfloat16
    for layer in attention:
        assert (layer.num_heads, layer.heads_outermost, layer.rescale) == (2, True, True)


def test_without_a_fixed_number_heads_are_as_many_as_their_size_gives():
    net = small_unet(attention_resolutions=(8, 4))
    found = modules_of(net, *EXAMPLE)
    assert found["down_0_0_attention"].num_heads == 1 and found["middle_attention"].num_heads == 2


def test_both_orders_of_q_k_and_v_are_the_same_function_of_permuted_weights():
    h, heads, size = normal(2, 3, 3, 8), 2, 4
    ours = Attention(heads, 2)
    params = drawn(ours, h)
    order = np.arange(24).reshape(3, heads, size).transpose(1, 0, 2).ravel()
    permuted = params | {"qkv": {name: a[..., order] for name, a in params["qkv"].items()}}
    theirs = Attention(heads, 2, heads_outermost=True)
    expected = apply(ours, params, h)
    np.testing.assert_allclose(apply(theirs, permuted, h), expected, atol=1e-5)
    assert np.abs(apply(theirs, params, h) - expected).max() > 1e-2


def test_widths_may_be_fractions_of_the_channels():
    net = small_unet(channel_mult=(0.5, 1, 2.5), attention_resolutions=(), head_channels=4)
    found = shapes(net, *EXAMPLE)
    assert found["conv_in"]["kernel"] == (3, 3, 1, 4)
    assert found["down_1_0"]["conv_in"]["kernel"] == (3, 3, 4, 8)
    assert found["down_2_0"]["conv_in"]["kernel"] == (3, 3, 8, 20)
    # The embedding's width depends on the channels.
    assert found["label_embedding"]["embedding"] == (4, 32)


@pytest.mark.parametrize(
    ("label_input", "rows"), [("with_null", 4), ("without_null", 3), ("none", None)]
)
def test_the_network_has_a_row_for_each_label_that_it_knows(label_input, rows):
    found = shapes(small_unet(label_input=label_input), *EXAMPLE)
    assert found.get("label_embedding") == (rows and {"embedding": (rows, 32)})


def test_a_network_without_null_label_knows_its_classes_and_answers_nan_to_the_null_label():
    net = small_unet(label_input="without_null")
    given = dict(z=normal(4, 8, 8, 1), noise=jnp.zeros(4), labels=jnp.arange(4))
    params = drawn(net, *given.values())
    _, emb = given_to("down_0_0", net, params, **given)
    assert np.isfinite(emb[:3]).all() and np.isnan(emb[3]).all()
    table = params["label_embedding"]["embedding"]
    np.testing.assert_allclose(emb[2] - emb[0], table[2] - table[0], atol=1e-4)


def test_a_network_without_labels_looks_at_none():
    net, (z, noise, labels) = small_unet(label_input="none"), EXAMPLE
    params = drawn(net, z, noise)
    traced = jax.make_jaxpr(lambda labels: net.apply({"params": params}, z, noise, labels))(labels)
    read = [variable for equation in traced.eqns for variable in equation.invars]
    assert not any(traced.jaxpr.invars[0] is variable for variable in read)


def test_an_upsampler_sees_its_small_image_enlarged_between_pixel_centres():
    net = small_unet(label_input="none")
    given = dict(z=normal(3, 8, 8, 2), noise=jnp.zeros(3), low_res=normal(3, 4, 4, 2))
    init = jax.eval_shape(lambda given: net.init(jax.random.key(0), **given), given)
    params = randomised(init["params"])
    assert params["conv_in"]["kernel"].shape == (3, 3, 4, 8)
    centres = (np.arange(8) + 0.5) / 2 - 0.5

    def enlarged(line):
        return np.interp(centres, np.arange(4), line)

    large = np.apply_along_axis(enlarged, 1, np.float64(given["low_res"]))
    large = np.apply_along_axis(enlarged, 2, large)
    seen, _ = given_to("conv_in", net, params, **given)
    np.testing.assert_array_equal(seen[..., :2], given["z"])
    np.testing.assert_allclose(seen[..., 2:], large, atol=1e-5)


def small_classifier(**overrides):
    settings = dict(
        num_classes=3,
        channels=8,
        channel_mult=(1,),
        num_blocks=1,
        attention_resolutions=(),
        head_channels=4,
        norm_groups=4,
        dropout=0.3,
    )
    return Classifier(**(settings | overrides))


@pytest.mark.parametrize("make", [small_unet, small_classifier])
def test_the_noise_level_is_a_timestep_or_the_position_of_a_log_snr(make):
    z, logsnr = normal(4, 8, 8, 1), np.float32([-20, -1, 3, 20])
    of_logsnr = make(num_classes=3)
    params = drawn(of_logsnr, z, logsnr, *[jnp.arange(4)] * isinstance(of_logsnr, UNet))
    labels = dict(labels=jnp.arange(4)) if isinstance(of_logsnr, UNet) else {}
    # 1000 arctan(sigma / alpha) / (pi / 2), in float64.
    position = 1000 * np.arctan2(1, np.exp(np.float64(logsnr) / 2)) / (np.pi / 2)
    place = "logsnr_embedding"
    found, _ = given_to(place, of_logsnr, params, z=z, noise=logsnr, **labels)
    np.testing.assert_allclose(found, position, rtol=1e-5, atol=1e-3)
    of_timestep = of_logsnr.clone(noise_input="timestep")
    same, _ = given_to(place, of_timestep, params, z=z, noise=found, **labels)
    np.testing.assert_array_equal(same, found)


@pytest.fixture(scope="module")
def classifier():
    net = small_classifier()
    given = normal(3, 8, 8, 1), jnp.array([-2.0, 0, 5])
    params = drawn(net, *given)
    return net, params, jax.jit(lambda *given: net.apply({"params": params}, *given)), given


def test_a_classifier_gives_float32_logits_that_depend_on_pixels_and_noise(classifier):
    _, _, call, (z, logsnr) = classifier
    out = call(z, logsnr)
    assert out.shape == (3, 3) and out.dtype == jnp.float32
    for changed in [(z + 0.1, logsnr), (z, logsnr + 1)]:
        assert np.abs(call(*changed) - out).min() > 1e-5
    assert shapes(small_classifier(), z, logsnr)["pool"]["proj"]["kernel"] == (8, 3)


def test_an_example_is_classified_by_itself(classifier):
    _, _, call, (z, logsnr) = classifier
    others = call(z.at[1:].add(1.0), logsnr.at[1:].add(2.0))
    np.testing.assert_array_equal(others[0], call(z, logsnr)[0])


def test_a_classifier_drops_features_only_with_keys_and_gives_every_layer_its_examples(classifier):
    net, params, _, (z, logsnr) = classifier
    without, bare = (
        jax.make_jaxpr(lambda *given, one=one: one.apply({"params": params}, *given))(z, logsnr)
        for one in (net, net.clone(dropout=0.0))
    )
    assert str(without) == str(bare)
    keys = jax.random.split(jax.random.key(0), 3)
    assert modules_of(net, z, logsnr)["middle_1/dropout"].rate == 0.3
    _, seen = given_to("dropout", net, params, z=z, noise=logsnr, dropout_keys=keys)
    np.testing.assert_array_equal(jax.random.key_data(seen), jax.random.key_data(keys))


def test_attention_pooling_is_numpy_attention_of_the_mean_to_all_pixels():
    h, layer = normal(2, 3, 3, 8), AttentionPool(features=5, num_heads=2)
    params = drawn(layer, h)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    expected = []
    for pixels in np.float64(h).reshape(2, 9, 8):
        tokens = np.vstack([pixels.mean(axis=0), pixels]) + p["position"]
        qkv = linear(p["qkv"], tokens)
        pooled = np.zeros(8)
        for head in range(2):
            q, k, v = (qkv[:, 8 * i + 4 * head : 8 * i + 4 * head + 4] for i in range(3))
            weights = np.exp(k @ q[0] / 2.0)
            pooled[4 * head : 4 * head + 4] = weights @ v / weights.sum()
        expected.append(linear(p["proj"], pooled))
    np.testing.assert_allclose(apply(layer, params, h), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "shape", "said"),
    [
        (small_unet(qkv_order="vkq"), (1, 8, 8, 1), "qkv_order='vkq'.*'heads_qkv'"),
        (small_unet(noise_input="sigma"), (1, 8, 8, 1), "noise_input='sigma'.*'timestep'"),
        (small_unet(label_input="all"), (1, 8, 8, 1), "label_input='all'.*'without_null'"),
        (small_unet(channel_mult=(0.5, 1.25)), (1, 8, 8, 1), "norm_groups=4.*10 channels"),
        (small_classifier(head_channels=3), (1, 8, 8, 1), "head_channels=3"),
        (small_classifier(channel_mult=(1, 1)), (1, 7, 7, 1), "multiples of 2"),
        (small_classifier(attention_resolutions=(4,)), (1, 8, 8, 1), r"the heights \[8\]"),
        (small_classifier(), (1, 2), r"images of shape \(2,\)"),
    ],
)
def test_an_argument_that_a_network_cannot_take_is_refused(net, shape, said):
    given = [jnp.zeros(shape), jnp.zeros(1)]
    if isinstance(net, UNet):
        given.append(jnp.zeros(1, jnp.int32))
    with pytest.raises(ValueError, match=said) as caught:
        jax.eval_shape(net.init, jax.random.key(0), *given)
    assert "\n" not in str(caught.value)
