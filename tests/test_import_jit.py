"""JiT's weight files, the program that converts one to a run folder, and the training configs."""

import functools
import importlib
import json
import math
import os
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import cfg_jax
from cfg_jax.config import build
from cfg_jax.config.validate import from_json, to_json, validate
from cfg_jax.core import flow
from cfg_jax.interop import jit, jit_configs
from cfg_jax.io import weight_files
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.storage import checkpoint
from launch import jit_run
from launch.jit_run import import_checkpoint, run_config
from tests.programs import run_program
from tests.test_jit import jit_weights
from tests.torch_pickles import NAMESPACE, archive, call, checkpoint_bytes, dict_of, named, text

_TINY = {
    "input_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "bottleneck_dim": 4,
    "in_context_len": 2,
    "in_context_start": 1,
    "noise_scale": 2.0,
}
TINY = {"JiT-tiny": _TINY, "JiT-deep": _TINY | {"depth": 3}}
PUBLISHED = list(jit.PRESETS)
CONFIGS = {
    f"imagenet{256 if patch == 16 else 512}_jit_{size.lower()}{patch}": f"JiT-{size}/{patch}"
    for patch in (16, 32)
    for size in "BLH"
}


original = jit.abstract
abstract = functools.cache(original)


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Each network is traced once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "abstract", abstract)
        yield


@pytest.fixture
def tiny(monkeypatch):
    """Tiny networks among the published names."""
    for name, config in TINY.items():
        monkeypatch.setitem(jit_configs.PRESETS, name, config)


@functools.cache
def shapes_of(name):
    return jit.shapes(original(TINY[name]))


def weights_of(name, added=0.0):
    return {key: v + np.float32(added) for key, v in jit_weights(shapes_of(name)).items()}


def sets_of(name):
    return {"model": weights_of(name), "model_ema1": weights_of(name, 1e-3)} | {
        "model_ema2": weights_of(name, 2e-3)
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder of the layouts of one set of three, and of one set alone."""
    folder, sets = tmp_path_factory.mktemp("jit"), sets_of("JiT-tiny")
    (folder / "checkpoint-last.pth").write_bytes(checkpoint_bytes(sets))
    for middle in ("net.", ""):
        three = {f"{s}.{middle}{k}": v for s, each in sets.items() for k, v in each.items()}
        save_file(three, folder / f"three_{middle}.safetensors")
        one = {middle + key: value for key, value in sets["model_ema1"].items()}
        save_file(one, folder / f"flat_{middle}.safetensors")
    return folder


THREE = ("checkpoint-last.pth", "three_.safetensors", "three_net..safetensors")
FLAT = ("flat_.safetensors", "flat_net..safetensors")


def position(network):
    return np.asarray(network.params["position"])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("file", THREE)
def test_each_set_of_weights_is_read_by_its_name_and_the_first_average_without_one(files, file):
    sets = sets_of("JiT-tiny")
    for weights, name in [*jit.SETS.items(), (None, "model_ema1")]:
        network, chosen = jit.load(files / file, "JiT-tiny", weights)
        assert chosen == (weights or "ema1")
        np.testing.assert_array_equal(position(network), sets[name]["pos_embed"][0])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("file", FLAT)
def test_a_set_without_a_name_is_imported_and_not_called_by_one(files, file):
    network, chosen = jit.load(files / file, "JiT-tiny")
    expected = jit.from_state_dict(sets_of("JiT-tiny")["model_ema1"], "JiT-tiny")
    assert chosen == ""
    jax.tree.map(np.testing.assert_array_equal, network.params, expected.params)
    with pytest.raises(ValueError, match="one set of weights without a name, not ema2: leave"):
        jit.load(files / file, "JiT-tiny", "ema2")


@pytest.mark.usefixtures("tiny")
def test_only_the_arrays_of_one_set_are_read(files, monkeypatch):
    sets = sets_of("JiT-tiny")
    sets["model"]["pos_embed"][:] = np.nan
    save_file(
        {f"{name}.{key}": value for name, each in sets.items() for key, value in each.items()},
        files / "diverged.safetensors",
    )
    jit.load(files / "diverged.safetensors", "JiT-tiny", "ema2")
    with pytest.raises(ValueError, match=r"is not JiT-tiny: .*1 with nan or inf \(pos_embed\)"):
        jit.load(files / "diverged.safetensors", "JiT-tiny", "model")


@pytest.mark.usefixtures("tiny")
def test_weights_that_a_file_lacks_cost_one_line_with_those_it_has(tmp_path):
    sets = sets_of("JiT-tiny")
    del sets["model_ema1"]
    (tmp_path / "a.pth").write_bytes(checkpoint_bytes(sets))
    three = {f"{name}.{key}": v for name, each in sets.items() for key, v in each.items()}
    save_file(three, tmp_path / "a.safetensors")
    said = r"weights ema1 \(model_ema1\) are not in it: choose ema2 or model"
    for file in ("a.pth", "a.safetensors"):
        for weights in ("ema1", None):
            refused(tmp_path / file, said, tmp_path / "run", weights=weights)
    refused(tmp_path / "a.pth", "'ema3' is unknown: choose one of ema1, ema2", weights="ema3")


def refused(file, said, workdir="runs/never", name="JiT-tiny", weights=None):
    with pytest.raises(ValueError, match=said) as error:
        import_checkpoint(str(file), name, str(workdir), weights)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert not Path(workdir).exists()


CHANGES = {
    "missing": (lambda w: w.pop("blocks.1.attn.qkv.bias"), r"1 missing \(blocks\.1\.attn\.qkv\.b"),
    "extra": (lambda w: w.update(more=np.zeros(2, np.float32)), r"1 unknown \(more\)"),
    "misshapen": (
        lambda w: w.update(pos_embed=np.zeros((1, 4, 12), np.float32)),
        r"pos_embed is float32\[1, 4, 12\], not floating\[1, 4, 16\]",
    ),
}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("change", CHANGES)
def test_a_set_that_does_not_fit_is_refused_with_its_keys_and_leaves_nothing(tmp_path, change):
    edit, said = CHANGES[change]
    sets = {"model_ema1": weights_of("JiT-tiny")}
    edit(sets["model_ema1"])
    (tmp_path / "a.pth").write_bytes(checkpoint_bytes(sets))
    refused(tmp_path / "a.pth", f"a.pth is not JiT-tiny: .*{said}", tmp_path / "new" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.usefixtures("tiny")
def test_a_file_of_another_preset_is_called_by_its_name(tmp_path):
    sets = {"model_ema1": weights_of("JiT-deep")}
    (tmp_path / "a.pth").write_bytes(checkpoint_bytes(sets))
    refused(tmp_path / "a.pth", "a.pth is JiT-deep, not JiT-tiny: give that name", tmp_path / "run")
    refused(tmp_path / "a.pth", "name='JiT-G/16' is unknown: choose", name="JiT-G/16")
    refused(tmp_path / "no.pth", "no.pth is not there")
    assert not (tmp_path / "run").exists()


class Touches:
    """Runs a command when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


HOSTILE = {
    "a call": lambda path: call("os", "system", text(f"touch {path}")),
    "an object": lambda path: pickle.dumps(Touches(path), protocol=2)[2:-1],
    "an attribute of a namespace": lambda path: named(
        "argparse", "Namespace"
    ) + b")\x81" + dict_of(device=call("os", "system", text(f"touch {path}"))) + b"b",
    "another class of its module": lambda path: call("argparse", "FileType", text("w")),
    "an attribute of its class": lambda path: call("argparse", "Namespace.__init__.__globals__"),
}  # fmt: skip


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_with_other_objects_than_a_namespace_is_refused_and_not_executed(tmp_path, what):
    made = tmp_path / "made"
    content = checkpoint_bytes({"model_ema1": weights_of("JiT-tiny")}, args=HOSTILE[what](made))
    (tmp_path / "a.pth").write_bytes(content)
    said = "a.pth is rejected, reading it would execute .*: give a file of tensors with no code"
    refused(tmp_path / "a.pth", said, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_namespace_is_no_tensor_and_no_state_dict(tmp_path):
    for value, said in [
        (NAMESPACE, "holds a Namespace: expected a state dict"),
        (dict_of(a=NAMESPACE), "entry 'a' is a Namespace, not a tensor"),
        (dict_of(a=call("argparse", "Namespace")), "'a' is a Namespace"),
    ]:
        (tmp_path / "a.pth").write_bytes(archive(value))
        with pytest.raises(ValueError, match=said):
            weight_files.read(tmp_path / "a.pth")


def test_a_file_of_the_original_layout_is_read_where_pytorch_wrote_it(tmp_path):
    torch = pytest.importorskip("torch")
    from argparse import Namespace

    module = torch.nn.ModuleDict({"net": torch.nn.Linear(3, 2)})
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.95))
    module["net"](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    averaged = module.state_dict()
    averaged["net.bias"] = torch.nn.Parameter(torch.ones(2))
    sets = {"model": module.state_dict(), "model_ema1": averaged}
    others = {"optimizer": optimizer.state_dict(), "epoch": 1, "args": Namespace(lr=None, a=[1.0])}
    torch.save(sets | others, tmp_path / "a.pth")
    read, chosen = weight_files.read_set(tmp_path / "a.pth", jit.SETS, "ema1")
    assert chosen and list(read) == ["net.weight", "net.bias"]
    np.testing.assert_array_equal(read["net.bias"], np.ones(2))


@pytest.fixture
def imported_run(files, tmp_path, tiny):
    """Workdir of an imported network, and the network."""
    path = files / "checkpoint-last.pth"
    count = import_checkpoint(str(path), "JiT-tiny", str(tmp_path / "run"))
    network, _ = jit.load(path, "JiT-tiny")
    assert count == sum(map(math.prod, jit.shapes(network).values()))
    return tmp_path / "run", network


def test_an_imported_run_draws_the_samples_of_the_network_that_was_imported(imported_run, files):
    workdir, network = imported_run
    loaded = checkpoint.load_ema(workdir / "checkpoints")
    jax.tree.map(np.testing.assert_array_equal, loaded.ema, network.params)
    data = loaded.meta["data"]
    assert data["shape"] == [8, 8, 3] and data["label_names"][0] == "n01440764"
    assert data["fingerprint"]["weights"] == "ema1"
    assert data["fingerprint"]["sha256"] == weight_files.sha256(files / "checkpoint-last.pth")

    model, labels, w = cfg_jax.load(workdir), jnp.array([3, 999]), 1.5
    plan = cfg_jax.plan(model.schedule.grid(50), "heun_flow", noise_scale=2.0)
    guided_at = np.asarray(flow.time_of(plan.logsnr, 2.0)) > 0.1 + 1e-6
    weights = cfg_jax.weights(plan, np.tile(w * guided_at[:, None], 2))

    @jax.jit
    def draw(network):
        predict = flow.clamped(network.predict, 2.0, 0.05)
        guided = cfg_jax.guide(cfg_jax.branches(predict, labels, null_label=1000), weights)
        return cfg_jax.sample(jax.random.key(0), guided, (2, 8, 8, 3), plan, clip_x=False)

    expected = draw(network)
    found = model.sample_x(jax.random.key(0), labels=labels, w=w)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert np.std(found) > 0.1
    other = {"solver": "dpmpp_2m", "grid": "uniform", "num_steps": 99}  # the same program
    images = model.sample(jax.random.key(0), labels=labels, w=w, **other)
    assert images.shape == (2, 8, 8, 3) and images.dtype == np.uint8


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_name_samples_with_99_calls_of_which_88_are_guided(name):
    config = run_config(name)
    validate(config, num_devices=1)
    assert from_json(json.loads(json.dumps(to_json(config)))).to_dict() == config.to_dict()
    side = config.data.image_size
    task = build.assemble(config, (side, side, 3), 1000)
    settings = SamplingSettings(w=2.0).filled(config.sampling)
    weights = settings.weights(task, 1)
    assert len(weights.w) == 99 and np.sum(np.asarray(weights.w) == 2) == 88
    exact = 2 * (math.log(0.1 / 0.9) - math.log(side / 256))
    assert 0 < config.sampling.interval[0] - exact < 1e-4
    assert task.network == abstract(name).network
    assert task.t_eps == 0.05 and not config.sampling.clip_x


def test_published_weights_of_guidance_are_the_published_scales_less_one():
    # The README beside the weights: --cfg of each command.
    scales = {"JiT-B/16": 3.0, "JiT-L/16": 2.4, "JiT-H/16": 2.2}
    scales |= {"JiT-B/32": 3.0, "JiT-L/32": 2.5, "JiT-H/32": 2.3}
    assert jit.PUBLISHED_W == {name: pytest.approx(scales[name] - 1) for name in PUBLISHED}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_training_config_has_the_network_and_recipe_of_its_name(config):
    name = CONFIGS[config]
    config = importlib.import_module(f"configs.{config}").get_config()
    validate(config, num_devices=8)
    side = config.data.image_size
    task = build.assemble(config, (side, side, 3), 1000)
    expected = abstract(name)
    assert task.shape == expected.shape
    assert task.network == expected.network.clone(dtype="bfloat16")
    imported = run_config(name)
    assert config.sampling == imported.sampling and config.diffusion == imported.diffusion
    optim, train = config.optim, config.train
    assert (optim.learning_rate, optim.warmup_steps, optim.anneal_steps) == (2e-4, 6255, 0)
    assert (optim.b1, optim.b2, optim.weight_decay, optim.grad_clip) == (0.9, 0.95, 0, 0)
    assert (train.batch_size, train.num_steps, optim.ema_decay) == (1024, 750_600, 0.9999)
    assert config.data.random_flip and config.data.resize == "adm"
    assert train.preview_w == (0.0, jit.PUBLISHED_W[name])


def test_after_an_import_the_published_samples_are_described():
    lines = jit_run.sampling("JiT-L/32", "runs/jit").splitlines()
    assert lines[0].startswith("samples with 50 Heun steps in time (99 calls), guided for t > 0.1")
    command = "cfg-jax sample --workdir=runs/jit --w=1.5 --labels=0,207,979"
    assert lines[1:] == [f"published with w=1.5: {command}"]


def test_the_program_ends_in_one_line_where_the_name_is_not_the_files(files, tmp_path):
    done = run_program(
        *("launch.import_jit", "--name=JiT-B/16", "--weights=ema2"),
        f"--checkpoint={files / 'checkpoint-last.pth'}",
        f"--workdir={tmp_path / 'run'}",
    )
    lines = [line for line in done.stderr.splitlines() if "OpenCV" not in line]
    assert done.returncode == 2 and len(lines) == 1, done
    assert "checkpoint-last.pth is not JiT-B/16: of 183 arrays, " in lines[0]
    assert not list(tmp_path.iterdir())
