"""OpenAI's ADM networks from their state dicts: golden files, and all eleven configs."""

import functools
import gzip
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.interop import openai
from configs import imagenet64, imagenet128
from tests import made_up

NETWORKS = [
    "unet_legacy_attention_4_heads",
    "unet_new_attention_64_head_channels",
    "unet_unconditional_additive_conv_resample",
    "classifier_attention_pool",
    "superres",
]
CONDITIONAL = NETWORKS[0]
MANIFEST = json.loads(gzip.decompress((made_up.GOLDEN / "openai_state_dicts.json.gz").read_bytes()))
KINDS = {"diffusion": "unet", "classifier": "classifier", "sr": "superres"}


@functools.cache
def imported(name):
    """(network, arrays of the golden file)."""
    kind, config, shapes, arrays = made_up.golden_network(name)
    return openai.from_state_dict(made_up.weights(shapes), config, kind), arrays


def logsnr_of_linear_timesteps(t):
    """log(abar / (1 - abar)) of Ho et al. 2020's betas, in float64."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[np.asarray(t, int)]
    return jnp.asarray(np.log(abar / (1 - abar)), jnp.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_golden_network_is_reproduced_from_its_state_dict(name):
    network, golden = imported(name)
    out = network.raw(golden["x"], golden["t"], golden["y"], golden.get("low_res"))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, golden["out"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_keys_of_a_golden_network_are_expected_in_their_order(name):
    kind, config, shapes, _ = made_up.golden_network(name)
    assert list(openai.expected_shapes(config, kind).items()) == list(shapes.items())


def test_a_predict_is_the_first_channels_at_the_timestep_of_its_logsnr():
    network, golden = imported(CONDITIONAL)
    logsnr = logsnr_of_linear_timesteps(golden["t"])
    eps_hat = network.predict(golden["x"], logsnr, golden["y"])
    np.testing.assert_allclose(eps_hat, golden["out"][..., :3], rtol=0, atol=2e-4)


def test_a_scalar_logsnr_counts_for_every_example():
    network, golden = imported(CONDITIONAL)
    logsnr = logsnr_of_linear_timesteps(golden["t"])
    eps_hat = network.predict(golden["x"], logsnr[1], golden["y"])
    np.testing.assert_allclose(eps_hat[1], golden["out"][1, ..., :3], rtol=0, atol=2e-4)
    assert np.abs(eps_hat[0] - golden["out"][0, ..., :3]).max() > 1e-2


def test_a_classifier_gives_normalised_log_probabilities_and_nan_for_no_class():
    network, golden = imported("classifier_attention_pool")
    logsnr = logsnr_of_linear_timesteps(golden["t"])
    odds = np.exp(golden["out"].astype(np.float64))
    expected = np.log(odds / odds.sum(1, keepdims=True))
    for label in (0, 9):
        log_prob = network.log_prob(golden["x"], logsnr, jnp.full(2, label))
        np.testing.assert_allclose(log_prob, expected[:, label], rtol=0, atol=2e-5)
    log_prob = network.log_prob(golden["x"], logsnr, jnp.array([10, -1]))
    assert np.isnan(log_prob).all()


def test_an_unconditional_network_needs_no_labels():
    network, golden = imported("unet_unconditional_additive_conv_resample")
    out = network.raw(golden["x"], golden["t"])
    np.testing.assert_allclose(out, golden["out"], rtol=0, atol=2e-5)


def test_a_network_is_an_argument_of_a_jitted_function_with_parameters_for_leaves():
    network, golden = imported(CONDITIONAL)
    assert len(jax.tree.leaves(network)) == len(openai.expected_shapes(*described(CONDITIONAL)))
    doubled = jax.jit(lambda n: jax.tree.map(lambda leaf: 2 * leaf, n))(network)
    assert doubled.schedule is network.schedule and doubled.shape == (16, 16, 3)
    bias = doubled.params["conv_in"]["bias"]
    np.testing.assert_array_equal(bias, 2 * network.params["conv_in"]["bias"])


def described(name):
    kind, config, _, _ = made_up.golden_network(name)
    return config, kind


@functools.cache
def published_network(name):
    kind, config = openai.preset(name)
    assert kind == KINDS[MANIFEST[name]["kind"]]
    return openai.abstract(config, kind)


@pytest.mark.parametrize("name", MANIFEST)
def test_a_published_network_has_the_published_keys_and_count(name):
    published, network = MANIFEST[name], published_network(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == published["params"]
    expected = {key: tuple(shape) for key, shape in published["state_dict"].items()}
    assert openai.shapes(network) == expected


SMALLEST = "64x64_diffusion", "128x128_classifier"


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (name not in SMALLEST)) for name in MANIFEST],
)
def test_a_published_network_gives_the_published_output(name):
    published, network = MANIFEST[name], published_network(name)
    size = published["flags"].get("image_size") or published["flags"]["large_size"]
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    small = published["flags"].get("small_size")
    low_res = small and jax.ShapeDtypeStruct((2, small, small, 3), jnp.float32)
    out = jax.eval_shape(lambda n, *a: n.raw(*a), network, x, 7, jnp.zeros(2, int), low_res)
    logits = isinstance(network, openai.ImportedClassifier)
    assert out.shape == ((2, 1000) if logits else (2, size, size, 6))


def test_presets_are_the_eleven_published_names():
    assert list(openai.PRESETS) == list(MANIFEST)
    with pytest.raises(ValueError, match="64x64_classifier, .*128_512_upsampler") as error:
        openai.preset("64x64_difusion")
    assert all(name in str(error.value) for name in MANIFEST)


@pytest.mark.parametrize("name", MANIFEST)
def test_settings_say_what_the_published_flags_say(name):
    flags, settings = MANIFEST[name]["flags"], openai.settings(name)
    assert settings["diffusion.schedule"] == (
        "cosine" if name.startswith("64x64") else flags.get("noise_schedule", "linear")
    )
    assert settings["diffusion.p_uncond"] == 0
    assert settings["data.image_size"] == flags.get("image_size", flags.get("large_size"))
    assert settings.get("diffusion.low_res_size", 0) == flags.get("small_size", 0)
    heights = flags.get("attention_resolutions", "32,16,8").split(",")
    assert settings["model.attention_resolutions"] == tuple(map(int, heights))
    if settings["network"] == "classifier":
        assert "model.label_input" not in settings
        assert settings["model.num_blocks"] == flags.get("classifier_depth", 2)
        return
    assert settings["diffusion.learned_variance"] is True
    assert settings["model.label_input"] == ("without_null" if flags["class_cond"] else "none")
    assert settings["model.num_heads"] == flags.get("num_heads", 0)
    assert settings["model.dropout"] == flags.get("dropout", 0)
    new_order = flags.get("use_new_attention_order", False)
    assert settings["model.qkv_order"] == ("qkv_heads" if new_order else "heads_qkv")


@pytest.mark.parametrize(
    ("name", "config"), [("64x64_diffusion", imagenet64), ("128x128_diffusion", imagenet128)]
)
def test_the_networks_of_the_guidance_paper_are_those_of_adm(name, config):
    # Ho & Salimans 2022, section 4: the architectures of Dhariwal & Nichol. Networks trained here
    # may differ in the order of q, k, v and in the labels.
    ours, settings = config.get_config().model, openai.settings(name)
    for field in set(ours) - {"qkv_order", "label_input", "dtype", "remat", "rescale_residual"}:
        assert settings[f"model.{field}"] == ours[field], field


def broken(change):
    _, _, shapes, _ = made_up.golden_network(CONDITIONAL)
    weights = made_up.weights(shapes)
    change(weights)
    return weights


MISTAKES = {
    "missing": (lambda w: w.pop("out.2.bias"), r"1 missing \(out\.2\.bias\)"),
    "extra": (lambda w: w.update(more=np.zeros(2)), r"1 unknown \(more\)"),
    "misshapen": (
        lambda w: w.update({"label_emb.weight": np.zeros((11, 128), np.float32)}),
        r"label_emb\.weight is float32\[11, 128\], not floating\[10, 128\]",
    ),
    "transposed": (
        lambda w: w.update({"time_embed.0.weight": w["time_embed.0.weight"].T}),
        r"time_embed\.0\.weight is float32\[32, 128\], not floating\[128, 32\]",
    ),
    "integers": (
        lambda w: w.update({"out.0.bias": np.zeros(32, np.int64)}),
        r"of another shape or type \(out\.0\.bias is int64\[32\], not floating\[32\]\)",
    ),
    "many": (lambda w: w.clear(), r"145 missing \(time_embed\.0\.weight, .*, \.\.\.\)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_state_dict_that_does_not_fit_is_refused_with_its_keys_named(mistake):
    change, said = MISTAKES[mistake]
    with pytest.raises(ValueError, match=said) as error:
        openai.from_state_dict(broken(change), *described(CONDITIONAL))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_half_precision_weights_become_float32():
    kind, config, shapes, _ = made_up.golden_network(CONDITIONAL)
    halves = {key: value.astype(np.float16) for key, value in made_up.weights(shapes).items()}
    params = openai.from_state_dict(halves, config, kind).params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_array_equal(params["conv_out"]["bias"], halves["out.2.bias"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chanel_mult": [1]}, "chanel_mult"),
        ({"dims": 3}, "dims=3"),
        ({"conv_resample": False, "resblock_updown": False}, "conv_resample=False"),
        ({"num_heads_upsample": 2}, "num_heads_upsample=2"),
        ({"noise_schedule": "sqrt"}, "noise_schedule='sqrt'"),
        ({"image_size": 15}, "multiples of 2"),
    ],
)
def test_a_config_that_cannot_be_imported_is_refused(change, said):
    config, kind = described(CONDITIONAL)
    with pytest.raises(ValueError, match=said):
        openai.expected_shapes(config | change, kind)


def test_an_incomplete_config_and_an_unknown_kind_are_refused():
    config, kind = described(CONDITIONAL)
    with pytest.raises(ValueError, match="diffusion.*unet, classifier, superres"):
        openai.expected_shapes(config, "diffusion")
    with pytest.raises(ValueError, match="no model_channels"):
        openai.expected_shapes({k: v for k, v in config.items() if k != "model_channels"}, kind)
    config, kind = described("classifier_attention_pool")
    with pytest.raises(ValueError, match="pool='adaptive'"):
        openai.expected_shapes(config | {"pool": "adaptive"}, kind)


def test_inputs_that_the_network_cannot_take_are_refused_before_it_is_compiled():
    network, golden = imported(CONDITIONAL)
    upsampler, _ = imported("superres")
    x, t, y = golden["x"], golden["t"], golden["y"]
    wide = np.zeros((2, 32, 32, 3), np.float32)
    for call, said in [
        (lambda: network.raw(x[:, :8], t, y), r"\(2, 8, 16, 3\)"),
        (lambda: network.raw(x, t), "labels of shape None"),
        (lambda: network.raw(x, t, y[:1]), r"labels of shape \(1,\)"),
        (lambda: network.raw(x, t, y, x), "the network does not upsample"),
        (lambda: upsampler.raw(wide, t, y), "low_res of shape None"),
        (lambda: upsampler.raw(wide, t, y, x[:1]), r"low_res of shape \(1, 16, 16, 3\)"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()


FORWARD_OF_64 = """
import resource, time
import jax, jax.numpy as jnp
from cfg_jax.interop import openai
from tests import made_up
kind, config = openai.preset("64x64_diffusion")
weights = made_up.weights(openai.expected_shapes(config, kind))
network = openai.from_state_dict(weights, config, kind)
start = time.perf_counter()
x = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
out = network.raw(x, 500, jnp.array([7])).block_until_ready()
assert out.shape == (1, 64, 64, 6) and jnp.isfinite(out).all() and 0.1 < out.std() < 10
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.long
def test_the_published_64_x_64_network_runs_within_8_gib():
    done = subprocess.run(
        [sys.executable, "-c", FORWARD_OF_64],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak_gib = map(float, done.stdout.split())
    print(f"forward {seconds:.0f} s, peak {peak_gib:.2f} GiB")
    assert peak_gib < 8
