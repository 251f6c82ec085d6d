"""Weight files, and the program that converts one to a run folder."""

import hashlib
import json
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import cfg_jax
from cfg_jax.config.validate import from_json, to_json, validate
from cfg_jax.core.types import eps_of
from cfg_jax.interop import openai, openai_configs
from cfg_jax.io import weight_files
from cfg_jax.sampling import run_folder
from cfg_jax.storage import checkpoint
from launch.import_openai import import_checkpoint, run_config
from tests import made_up
from tests.programs import run_program

ROOT = Path(__file__).parents[1]

# The smallest networks of each kind, under the names used by these tests.
_TINY = {
    "image_size": 8,
    "model_channels": 32,
    "out_channels": 6,
    "num_res_blocks": 1,
    "channel_mult": (1,),
    "attention_resolutions": (),
    "num_head_channels": 32,
}
TINY = {
    "tiny_diffusion": openai_configs.Preset(
        "unet", _TINY | {"num_classes": 1000, "noise_schedule": "cosine"}
    ),
    "tiny_uncond": openai_configs.Preset("unet", _TINY),
    "tiny_classifier": openai_configs.Preset("classifier", _TINY | {"out_channels": 1000}),
    "tiny_upsampler": openai_configs.Preset("superres", _TINY | {"num_classes": 1000}, 4),
}


@pytest.fixture(scope="module", autouse=True)
def tiny_presets():
    with pytest.MonkeyPatch.context() as patch:
        for name, preset in TINY.items():
            patch.setitem(openai_configs.PRESETS, name, preset)
        yield


def tiny_weights(name):
    kind, config = openai.preset(name)
    return made_up.weights(openai.expected_shapes(config, kind))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder of weight files: one valid, the others damaged."""
    folder = tmp_path_factory.mktemp("weights")
    weights = tiny_weights("tiny_diffusion")
    save_file(weights, folder / "whole.safetensors")
    whole = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "cut_by_a_byte.safetensors").write_bytes(whole[:-1])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "page.safetensors").write_text("<html>not found</html>")
    (folder / "weights.bin").write_bytes(whole)
    (folder / "weights.pt").write_bytes(whole)
    lacking = dict(list(weights.items())[:-1])
    save_file(lacking, folder / "lacking.safetensors")
    return folder


# file: (name to import, error text)
REFUSED = {
    "cut.safetensors": ("tiny_diffusion", "cut.safetensors cannot be read .* truncated"),
    "cut_by_a_byte.safetensors": ("tiny_diffusion", "truncated"),
    "empty.safetensors": ("tiny_diffusion", "truncated"),
    "page.safetensors": ("tiny_diffusion", "another format"),
    "weights.bin": ("tiny_diffusion", "end in .pt, .pth, .safetensors"),
    "nothing.safetensors": ("tiny_diffusion", "nothing.safetensors is not there"),
    "lacking.safetensors": ("tiny_diffusion", r"is not tiny_diffusion: .*1 missing \(out\.2\.bias"),
    "whole.safetensors": (
        "tiny_uncond",
        r"whole.safetensors is not tiny_uncond: .* 1 unknown \(label_emb\.weight\)",
    ),
}


@pytest.mark.parametrize("file", REFUSED)
def test_a_file_that_cannot_be_imported_costs_one_line_and_leaves_nothing(files, tmp_path, file):
    name, said = REFUSED[file]
    with pytest.raises(ValueError, match=said) as error:
        import_checkpoint(str(files / file), name, str(tmp_path / "new" / "run"))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_file_without_permission_is_not_called_damaged(files, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may read
    with pytest.raises(ValueError, match=r"whole.safetensors cannot be read \(no permission\)"):
        weight_files.read(files / "whole.safetensors")


def test_an_unknown_name_is_refused_before_the_file_is_looked_for(tmp_path):
    with pytest.raises(ValueError, match="64x64_difusion.*64x64_diffusion, 128x128_diffusion"):
        import_checkpoint("nothing.pt", "64x64_difusion", str(tmp_path / "run"))


def test_a_workdir_in_use_is_refused_and_left_as_it_is(files, tmp_path):
    step = tmp_path / "run" / "checkpoints" / "7"
    step.mkdir(parents=True)
    (tmp_path / "file").write_text("kept")
    arguments = str(files / "whole.safetensors"), "tiny_diffusion"
    for workdir, said in [
        (tmp_path / "run", r"holds checkpoints \(7\)"),
        (tmp_path / "file", "is a file"),
        ("", "workdir is empty"),
    ]:
        with pytest.raises(ValueError, match=said):
            import_checkpoint(*arguments, str(workdir))
    assert step.is_dir() and not list(step.iterdir())
    assert (tmp_path / "file").read_text() == "kept"


def test_a_write_that_fails_leaves_nothing_of_its_own(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.Checkpoints, "save", full)
    (tmp_path / "mine.txt").write_text("kept")
    for workdir in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(OSError, match="No space left"):
            run_folder.write(workdir, {"a": np.zeros(2)}, config={}, meta={})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def imported_run(files, tmp_path_factory):
    """Workdir of an imported network, and the network."""
    workdir = tmp_path_factory.mktemp("imported") / "run"
    path = files / "whole.safetensors"
    import_checkpoint(str(path), "tiny_diffusion", str(workdir))
    return workdir, openai.load(path, "tiny_diffusion")


def test_an_imported_checkpoint_holds_the_parameters_and_says_where_they_are_from(
    imported_run, files
):
    workdir, network = imported_run
    loaded = checkpoint.load_ema(workdir / "checkpoints")
    assert jax.tree.structure(loaded.ema) == jax.tree.structure(network.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.ema, network.params)
    data = loaded.meta["data"]
    assert data["shape"] == [8, 8, 3]
    assert len(data["label_names"]) == 1000 and data["label_names"][0] == "n01440764"
    assert data["fingerprint"]["published"] == "tiny_diffusion"
    digest = hashlib.sha256((files / "whole.safetensors").read_bytes()).hexdigest()
    assert data["fingerprint"]["sha256"] == digest
    assert loaded.config["diffusion"]["schedule"] == "cosine"


def test_a_loaded_import_predicts_as_the_network_that_was_imported(imported_run):
    workdir, network = imported_run
    model = cfg_jax.load(workdir)
    assert model.schedule == network.schedule
    z = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)
    logsnr, labels = jnp.array([-3.0, 2.5]), jnp.array([3, 999])
    predicted = jax.jit(lambda params: eps_of(model.bind(params)(z, logsnr, labels)))
    expected = network.predict(z, logsnr, labels)
    np.testing.assert_allclose(predicted(model.params), expected, rtol=0, atol=2e-5)
    assert np.std(expected) > 0.1


def test_a_loaded_import_draws_images(imported_run):
    model = cfg_jax.load(imported_run[0])
    images = model.sample(jax.random.key(0), labels=jnp.array([1, 5]), num_steps=3)
    assert images.shape == (2, 8, 8, 3) and images.dtype == np.uint8
    assert images.std() > 5


@pytest.mark.parametrize("name", ["tiny_classifier", "tiny_upsampler", "tiny_uncond"])
def test_every_kind_of_network_is_loaded_as_what_it_is(tmp_path, name):
    save_file(tiny_weights(name), tmp_path / "file.safetensors")
    count = import_checkpoint(str(tmp_path / "file.safetensors"), name, str(tmp_path / "run"))
    network = openai.load(tmp_path / "file.safetensors", name)
    model = cfg_jax.load(tmp_path / "run")
    exp = model.experiment
    expected = network.network
    if name == "tiny_uncond":  # the data has classes, the network has none
        expected = expected.clone(num_classes=1000)
    assert exp.network == expected and exp.schedule == network.schedule
    fresh = jax.eval_shape(exp.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, model.params)
    assert count == sum(leaf.size for leaf in jax.tree.leaves(model.params))


@pytest.mark.parametrize("name", [name for name in openai.PRESETS if name not in TINY])
def test_the_config_of_a_published_checkpoint_is_a_valid_one(name):
    config = run_config(name)
    validate(config, num_devices=1)
    back = from_json(json.loads(json.dumps(to_json(config))))
    assert back.to_dict() == config.to_dict()
    for field, value in openai.settings(name).items():
        section, _, key = field.rpartition(".")
        assert (config[section] if section else config)[key] == value


def test_safetensors_give_back_every_floating_type(tmp_path):
    arrays = {
        "wide": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.array([1.5, -2], np.float16),
        "brain": np.asarray(jnp.array([0.5, 3], jnp.bfloat16)),
    }
    save_file(arrays, tmp_path / "a.safetensors")
    read = weight_files.read(tmp_path / "a.safetensors")
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


class Touch:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pytorch_file_is_read_in_both_of_its_formats(tmp_path, archive):
    torch = pytest.importorskip("torch")
    values = {
        "wide": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.tensor([1.5, -2]).half(),
        "brain": torch.tensor([0.5, 3]).bfloat16(),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=archive)
    read = weight_files.read(tmp_path / "a.pt")
    assert [array.dtype.name for array in read.values()] == ["float32", "float16"] + ["float32"] * 2
    for name, value in values.items():
        np.testing.assert_array_equal(read[name], value.detach().float().numpy())


DAMAGED = {
    "cut": (lambda whole: whole[: len(whole) // 2], "truncated"),
    "cut by a byte": (lambda whole: whole[:-1], "truncated"),
    "empty": (lambda whole: b"", "truncated"),
    "a page": (lambda whole: b"<html>not found</html>", "rejected, it is not a plain state dict"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_pytorch_file_is_refused_in_one_line(tmp_path, damage):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(100)}, tmp_path / "a.pt")
    change, said = DAMAGED[damage]
    (tmp_path / "a.pt").write_bytes(change((tmp_path / "a.pt").read_bytes()))
    with pytest.raises(ValueError, match=said) as error:
        weight_files.read(tmp_path / "a.pt")
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


@pytest.mark.parametrize("form", ["archive", "old", "pickle 2", "pickle 5"])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path, form):
    torch = pytest.importorskip("torch")
    path, made = tmp_path / "a.pt", tmp_path / "made"
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(Touch(made), protocol=int(form[-1])))
    else:
        torch.save({"a": Touch(made)}, path, _use_new_zipfile_serialization=form == "archive")
    with pytest.raises(ValueError, match="rejected.* no code") as error:
        weight_files.read(path)
    assert "\n" not in str(error.value) and not made.exists()
    if form != "pickle 5":
        assert "would execute" in str(error.value)


def test_a_file_with_other_things_than_tensors_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    torch.save({"weights": {"a": torch.ones(2)}}, tmp_path / "nested.pt")
    torch.save({"model": {"ema": [torch.ones(2)]}}, tmp_path / "shadow.pt")
    with pytest.raises(ValueError, match="holds a list: expected a state dict"):
        weight_files.read(tmp_path / "list.pt")
    with pytest.raises(ValueError, match="entry 'weights' is a dict"):
        weight_files.read(tmp_path / "nested.pt")
    with pytest.raises(ValueError, match="entry 'ema' is a list"):
        weight_files.read(tmp_path / "shadow.pt")


WRAPPED = {
    "module.": (lambda weights: {f"module.{k}": v for k, v in weights.items()}, "'module.'"),
    "compiled": (
        lambda weights: {f"module._orig_mod.{k}": v for k, v in weights.items()},
        "'module._orig_mod.'",
    ),
    "state_dict": (lambda weights: {"state_dict": weights, "epoch": 3}, r"['state_dict'] (beside"),
    "averaged": (
        lambda weights: {"model": {k: 0 * v for k, v in weights.items()}, "ema": weights},
        "['ema'] (beside 'model')",
    ),
    "nested": (
        lambda weights: {"state_dict": {"model": {f"module.{k}": v for k, v in weights.items()}}},
        "['state_dict']['model'], names without 'module.'",
    ),
}


@pytest.mark.parametrize("form", WRAPPED)
def test_a_state_dict_is_unwrapped_with_a_line_that_says_so(tmp_path, capsys, form):
    torch = pytest.importorskip("torch")
    weights = {"a.weight": torch.arange(4.0), "module.bias": torch.ones(2)}
    wrap, said = WRAPPED[form]
    torch.save(wrap(weights), tmp_path / "a.pt")
    read = weight_files.read(tmp_path / "a.pt")
    assert list(read) == list(weights)
    np.testing.assert_array_equal(read["a.weight"], np.arange(4))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / 'a.pt'}: ") and said in line


def test_a_prefix_of_all_names_is_taken_off_and_one_of_some_is_kept(tmp_path, capsys):
    weights = tiny_weights("tiny_diffusion")
    wrapped = {f"module.{name}": array for name, array in weights.items()}
    save_file(wrapped, tmp_path / "a.safetensors")
    network = openai.load(tmp_path / "a.safetensors", "tiny_diffusion")
    assert "names without 'module.'" in capsys.readouterr().out
    expected = openai.from_state_dict(weights, *openai.preset("tiny_diffusion")[::-1])
    jax.tree.map(np.testing.assert_array_equal, network.params, expected.params)
    save_file({"module.a": np.ones(2), "b": np.ones(2)}, tmp_path / "b.safetensors")
    assert set(weight_files.read(tmp_path / "b.safetensors")) == {"module.a", "b"}
    assert not capsys.readouterr().out


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_weights_of_half_the_width_are_imported_as_they_are(tmp_path, dtype):
    weights = {k: np.asarray(v, dtype) for k, v in tiny_weights("tiny_diffusion").items()}
    save_file(weights, tmp_path / "half.safetensors")
    network = openai.load(tmp_path / "half.safetensors", "tiny_diffusion")
    leaves = jax.tree.leaves(network.params)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    found = np.asarray(network.params["conv_out"]["bias"])
    np.testing.assert_array_equal(found, weights["out.2.bias"].astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_weights_of_a_diverged_run_are_refused_and_leave_nothing(tmp_path, value, dtype):
    weights = {k: np.asarray(v, dtype) for k, v in tiny_weights("tiny_diffusion").items()}
    weights["out.2.bias"][1] = value
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"1 with nan or inf \(out\.2\.bias\)") as caught:
        import_checkpoint(str(tmp_path / "a.safetensors"), "tiny_diffusion", str(tmp_path / "run"))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


ODD_TENSORS = {
    "sparse": lambda torch: torch.eye(3).to_sparse(),
    "quantized": lambda torch: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "without data": lambda torch: torch.ones(3, device="meta"),
}


@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_a_tensor_that_numpy_cannot_hold_costs_one_line_with_its_name(tmp_path, kind):
    torch = pytest.importorskip("torch")
    torch.save({"a": ODD_TENSORS[kind](torch)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a.pt") as caught:
        weight_files.read(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_tensors_of_eight_bits_are_widened_and_complex_ones_do_not_fit(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"a": torch.tensor([0.5, -2]).to(torch.float8_e4m3fn), "b": torch.tensor([1j])}
    torch.save(tensors, tmp_path / "a.pt")
    read = weight_files.read(tmp_path / "a.pt")
    np.testing.assert_array_equal(read["a"], np.float32([0.5, -2]))
    with pytest.raises(ValueError, match=r"1 of another shape or type \(b is complex64"):
        weight_files.check(read, {"a": (2,), "b": (1,)}, jnp.floating, "give others")


def test_the_program_ends_in_one_line_where_the_name_is_not_the_files(files, tmp_path):
    done = run_program(
        *("launch.import_openai", "--name=128x128_classifier"),
        f"--checkpoint={files / 'whole.safetensors'}",
        f"--workdir={tmp_path / 'run'}",
    )
    lines = [line for line in done.stderr.splitlines() if "OpenCV" not in line]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert "whole.safetensors is not 128x128_classifier" in lines[0]
    assert not list(tmp_path.iterdir())
