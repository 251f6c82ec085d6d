"""Networks of guided-diffusion trained on other data, described by their flags."""

import gzip
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import cfg_jax
from cfg_jax.interop import openai, openai_flags
from cfg_jax.interop.openai_configs import arguments
from launch.import_openai import import_checkpoint
from tests import made_up
from tests.programs import ROOT

MANIFEST = json.loads(gzip.decompress((made_up.GOLDEN / "openai_state_dicts.json.gz").read_bytes()))
KINDS = {"diffusion": "unet", "classifier": "classifier", "sr": "superres"}

OWN = {
    "image_size": 8,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1",
    "attention_resolutions": "",
    "num_head_channels": 32,
    "class_cond": True,
    "num_classes": 3,
    "label_names": ["cat", "dog", "fox"],
}


@pytest.mark.parametrize("name", MANIFEST)
def test_the_flags_of_a_published_network_describe_it(name):
    published, (kind, config) = MANIFEST[name], openai.preset(name)
    # The flags published for the classifier of 64 pixels leave its schedule to the model's.
    schedule = {"noise_schedule": config.get("noise_schedule", "linear")}
    flags = schedule | published["flags"] | {"kind": KINDS[published["kind"]]}
    found = openai_flags.described(flags).preset
    assert found.kind == kind
    ours, theirs = (arguments(each, kind) for each in (found.config, config))
    assert ours == theirs
    same = ("out_channels", "num_classes", "noise_schedule", "image_size")
    defaults = {"noise_schedule": "linear"}
    for key in same:
        assert found.config.get(key) == (defaults | config).get(key), key
    assert openai.settings(found) == openai.settings(name)


def written(tmp_path, values):
    path = tmp_path / "flags.json"
    path.write_text(json.dumps(values))
    return path


def imported(tmp_path, values, **other):
    """The model of a file described by `values`, imported, and its network."""
    own = openai_flags.read(written(tmp_path, values))
    shapes = openai.expected_shapes(own.preset.config, own.preset.kind)
    weights = made_up.weights(shapes)
    save_file({**weights, **other}, tmp_path / "own.safetensors")
    import_checkpoint(str(tmp_path / "own.safetensors"), own, str(tmp_path / "run"))
    return cfg_jax.load(tmp_path / "run"), shapes


def test_a_network_of_other_data_is_loaded_with_its_classes(tmp_path):
    model, shapes = imported(tmp_path, OWN | {"dataset": "folder", "data_dir": "/data/pets"})
    assert model.label_names == ("cat", "dog", "fox") and model.shape == (8, 8, 3)
    assert shapes["label_emb.weight"] == (3, 128) and shapes["out.2.weight"][0] == 3
    assert not model.config.diffusion.learned_variance
    assert model.config.sampling.logvar_interp == 1.0
    assert (model.config.data.name, model.config.data.data_dir) == ("folder", "/data/pets")
    labels = model.numbered(["fox", "cat"])
    assert labels == [2, 0]


def test_a_learned_variance_grey_images_and_predicted_x_are_taken_over(tmp_path):
    own = OWN | {"learn_sigma": True, "in_channels": 1, "predict_xstart": True}
    model, shapes = imported(tmp_path, own)
    assert model.shape == (8, 8, 1) and shapes["out.2.weight"][0] == 2
    assert model.config.diffusion.learned_variance and model.config.diffusion.prediction == "x"


def test_the_description_in_the_documentation_is_one():
    text = (ROOT / "docs" / "adm.md").read_text("utf-8").split("```json\n")[1].split("```")[0]
    found = openai_flags.described(json.loads(text))
    assert found.label_names == ("cat", "dog", "fox") and found.preset.kind == "unet"


def test_a_network_without_labels_and_a_classifier_have_their_classes(tmp_path):
    own = {k: v for k, v in OWN.items() if k not in ("class_cond", "num_classes", "label_names")}
    model, _ = imported(tmp_path, own)
    assert model.label_names == ("0",) and model.experiment.label_input == "none"
    classifier = openai_flags.described(
        {"kind": "classifier", "image_size": 64, "num_classes": 7, "classifier_width": 64}
    )
    assert classifier.preset.config["out_channels"] == 7 and len(classifier.label_names) == 7


def test_the_arguments_of_the_constructors_describe_a_network_too():
    config = dict(openai.preset("64x64_diffusion")[1], num_classes=5)
    found = openai_flags.described(json.loads(json.dumps(config)) | {"label_names": list("abcde")})
    assert found.preset.kind == "unet" and found.label_names == tuple("abcde")
    ours, theirs = (arguments(each, "unet") for each in (found.preset.config, config))
    assert ours == theirs and found.preset.config["num_classes"] == 5
    free = openai_flags.described(json.loads(json.dumps(config | {"num_classes": None})))
    assert free.label_names == ("0",)


REFUSED = {
    "another flag": (
        {"num_chanels": 64},
        "num_chanels is not a flag of a unet: did you mean num_c",
    ),
    "text for a number": ({"num_channels": "64"}, "num_channels='64': give a int, as 128"),
    "text for a truth value": ({"learn_sigma": "True"}, "learn_sigma='True': give a bool"),
    "a size without widths": ({"channel_mult": "", "image_size": 32}, "channel_mult is missing"),
    "widths that are none": ({"channel_mult": "1,x"}, "channel_mult='1,x': give numbers"),
    "no heights": ({"attention_resolutions": "a"}, "attention_resolutions='a': give heights"),
    "other timesteps": ({"diffusion_steps": 4000}, "diffusion_steps=4000: only 1000"),
    "another schedule": ({"noise_schedule": "sigmoid"}, "noise_schedule='sigmoid'"),
    "names of other classes": ({"label_names": ["cat"]}, "label_names has 1 names: give 3"),
    "a name twice": ({"label_names": ["cat", "cat", "dog"]}, "has 2 names: give 3 different"),
    "no channels": ({"in_channels": 0}, "in_channels=0: need an integer of at least 1"),
    "another kind": ({"kind": "video"}, "kind='video': choose one of unet"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_description_that_cannot_be_imported_costs_one_line_with_the_file(tmp_path, name):
    changes, said = REFUSED[name]
    path = written(tmp_path, OWN | changes)
    with pytest.raises(ValueError, match=said) as caught:
        openai_flags.read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 10**5, '"x"'])
def test_a_file_that_is_no_description_costs_one_line(tmp_path, text):
    path = tmp_path / "flags.json"
    for make in (lambda: None, lambda: path.write_text(text)):
        make()
        with pytest.raises(ValueError, match="flags.json: ") as caught:
            openai_flags.read(path)
        assert "\n" not in str(caught.value)


def test_weights_of_other_classes_than_the_description_says_are_refused(tmp_path):
    other = {"label_emb.weight": np.zeros((4, 128), np.float32)}
    with pytest.raises(ValueError, match=r"is not the unet described: .*label_emb.*\[4, 128\]"):
        imported(tmp_path, OWN, **other)
    assert not (tmp_path / "run").exists()
