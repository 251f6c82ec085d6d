"""User errors at the command line: one line, a nonzero exit code, nothing lost."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import cfg_jax
from cfg_jax import data
from cfg_jax.config.validate import to_json
from cfg_jax.sampling import run_folder
from launch import fields, help, program
from launch.__main__ import PROGRAMS
from tests.programs import ROOT, run_program
from tests.tiny import DIGITS, random_model, tiny_classifier, tiny_config

TRAIN = ["launch.train", "--config=configs/digits.py"]

SAMPLE = ["launch.sample", "--workdir={run}"]

IMPORT = ["launch.import_openai", "--checkpoint={file}", "--workdir={new}"]

# name: (arguments, text of the line). {run} is a model's run, {classifier} a noisy classifier's,
# {larger} a classifier's for larger images, {new} a missing folder, {file} a file instead of one.
MISTAKES = {
    "an unknown field": ([*TRAIN, "--workdir={new}", "--config.optim.lr=1"], "optim.learning_rate"),
    "a wrong type": ([*TRAIN, "--workdir={new}", "--config.train.num_steps=many"], "num_steps"),
    "not a number": (
        [*TRAIN, "--workdir={new}", "--config.optim.learning_rate=nan"],
        "config.optim.learning_rate=nan: need a number above 0",
    ),
    "a batch that does not divide": (
        [*TRAIN, "--workdir={new}", "--config.train.batch_size=63"],
        "batch_size=63 on 2 devices",
    ),
    "noise above data": (
        [*TRAIN, "--workdir={new}", "--config.diffusion.logsnr_min=21."],
        "logsnr_min=21.0 is not below logsnr_max=20.0",
    ),
    "no such config": (
        ["launch.train", "--config=configs/no.py", "--workdir={new}"],
        "--config=configs/no.py: give a file or one of base, cifar10",
    ),
    "no such folder of pictures": (
        ["launch.train", "--config=folder:{new}", "--workdir={new}"],
        "error: data_dir is '{new}', which does not exist: give a folder of pictures by class",
    ),
    "a background that is no colour": (
        [
            *(*TRAIN, "--workdir={new}", "--config.data.background=whight"),
            *("--config.data.name=folder", "--config.data.data_dir={run}"),
        ],
        "background is 'whight': give a colour by name",
    ),
    "no such version of a data set": (
        ["launch.prepare", "--dataset=cifar10:9.9.9", "--data_dir={new}"],
        "data set 'cifar10:9.9.9' cannot be opened",
    ),
    "a split that is not there, before a feature network is trained": (
        [
            *("launch.evaluate", "--workdir={run}", "--metrics=fid"),
            "--num_samples=10",
            "--split=no",
        ],
        "split is 'no'",
    ),
    "statistics that are not there": (
        [
            *("launch.sweep", "--workdir={run}", "--w=0", "--num_samples=10"),
            "--reference={new}/moments.npz",
        ],
        "moments.npz does not exist",
    ),
    "a strip in the name of a picture": (
        [*SAMPLE, "--out={new}/a.png"],
        "--out={new}/a.png is the name of a file, and a folder is meant",
    ),
    "a strip where a file is": ([*SAMPLE, "--out={file}"], "--out={file} cannot be written"),
    "a log-SNR that is none": (
        ["launch.evaluate", "--workdir={classifier}", "--accuracy", "--logsnrs=nan"],
        "--logsnrs=nan: need finite numbers",
    ),
    "no workdir": (TRAIN, "workdir"),
    "a workdir that is a file": ([*TRAIN, "--workdir={file}"], "cannot be written"),
    "a stray argument": ([*TRAIN, "--workdir={new}", "fast"], "unexpected argument 'fast'"),
    "data that is not prepared": (
        [
            "launch.train",
            "--config=configs/cifar10.py",
            "--workdir={new}",
            "--config.data.data_dir={new}",
        ],
        "cfg-jax prepare --dataset=cifar10",
    ),
    "no checkpoint": (["launch.sample", "--workdir={new}"], "cfg-jax train"),
    "a foreign checkpoint": (["launch.sample", "--workdir={foreign}"], "of another program"),
    "a label out of range": (["launch.sample", "--workdir={run}", "--labels=3,11"], "0..9"),
    "a label that is a word": (
        ["launch.sample", "--workdir={run}", "--labels=cat"],
        "label 'cat' is not a class: need 0, 1, 2,",
    ),
    "a w that is no number": (["launch.sample", "--workdir={run}", "--w=1,x"], "--w=1,x"),
    "a w that is not finite": (["launch.sample", "--workdir={run}", "--w=nan"], "finite"),
    "no step": (["launch.sample", "--workdir={run}", "--num_steps=0"], "num_steps"),
    "an infinite label": (["launch.sample", "--workdir={run}", "--labels=inf"], "is not a class"),
    "accuracies that do not match": (
        ["launch.judge", "--workdir={run}", "--w=0,1", "--min_accuracy=0.9"],
        "--w=0,1 --min_accuracy=0.9: give ascending weights, and one accuracy for each or none",
    ),
    "an explorer for everyone": (
        ["launch.explore", "--workdir={run}", "--host=0.0.0.0"],
        "--host=0.0.0.0 is reached by other machines, and the page has no password: add --public",
    ),
    "an explorer of no call": (
        ["launch.explore", "--workdir={run}", "--num_steps=4,0"],
        "--num_steps=4,0: give 1 step or more",
    ),
    "an unknown solver": ([*SAMPLE, "--solver=dpm"], "solver='dpm': choose one of ancestral, ddim"),
    "an option that solvers lack": (
        [*SAMPLE, "--solver=ddim:phi=1"],
        "--solver=ddim:phi=1: 'phi=1' is none of eta=NUMBER, churn=NUMBER, grid=NAME",
    ),
    "two numbers of calls": (
        [*SAMPLE, "--solver=ddim:num_steps=4", "--num_steps=5"],
        "--num_steps=5 and --solver=ddim:num_steps=4: give one of them",
    ),
    "a strip that cannot be drawn": (
        [
            *("launch.sweep", "--workdir={run}", "--w=0,1", "--num_samples=20"),
            *("--solver=ddim", "--schedule=cfgpp", "--num_steps=4", "--strip_w=4"),
        ],
        "w=4.0 with schedule='cfgpp': need w in [0, 1]",
    ),
    "noise of a solver given twice": (
        ["launch.sweep", "--workdir={run}", "--solver=ddim:eta=0.5", "--eta=1"],
        "--eta=1.0 and --solver=ddim:eta=0.5: give one of them",
    ),
    "a class to guide away from that is none": (
        [*SAMPLE, "--against=12"],
        "against='12': class 12 is not one of 0..9",
    ),
    "two solvers": ([*SAMPLE, "--solver=ddim,unipc_2"], "--solver=ddim,unipc_2: give one, or use"),
    "half an interval": ([*SAMPLE, "--interval=1"], "--interval=1: need LO,HI in log-SNR, or none"),
    "an interval upside down": (
        [*SAMPLE, "--interval=3,-1"],
        "interval=(3.0, -1.0): need (lo, hi)",
    ),
    "an unknown type": (
        ["launch.sweep", "--workdir={new}", "--w=0", "--dtype=float32,bf16"],
        "--dtype=float32,bf16: 'bf16' is none of float32, bfloat16",
    ),
    "an unknown rule": ([*SAMPLE, "--rule=pag"], "rule='pag': choose one of cfg, rescale, apg"),
    "a weaker checkpoint alone": (
        [*SAMPLE, "--weaker_checkpoint=2"],
        "--weaker_checkpoint needs --weaker_workdir: give that too",
    ),
    "telemetry of files": (
        [*SAMPLE, "--telemetry", "--num_samples=10", "--w=1", "--out={new}"],
        "--telemetry conflicts with --num_samples",
    ),
    "an unknown metric": (
        ["launch.evaluate", "--workdir={run}", "--metrics=fid,kid"],
        "metrics=fid,kid: choose some of fid, sfid, is, precision_recall",
    ),
    "samples that no plan of labels covers": (
        ["launch.evaluate", "--workdir={run}", "--metrics=fid", "--num_samples=1001"],
        "use 1010",
    ),
    "weights of Inception that are not there": (
        [
            *("launch.evaluate", "--workdir={run}", "--metrics=fid", "--num_samples=10"),
            "--inception={new}/inception.safetensors",
        ],
        "get pt_inception-2015-12-05",
    ),
    "a classifier without its weight": (
        [*SAMPLE, "--classifier_workdir={classifier}"],
        "--classifier_w=: give both, or neither",
    ),
    "a classifier's weight without one": ([*SAMPLE, "--classifier_w=1"], "give both, or neither"),
    "weights that do not pair": (
        [*SAMPLE, "--w=0,1", "--classifier_workdir={classifier}", "--classifier_w=1,2,3"],
        "2 guidance weights with 3 classifier weights",
    ),
    "a model to guide another": (
        [*SAMPLE, "--classifier_workdir={run}", "--classifier_w=1"],
        "holds no classifier",
    ),
    "samples of a classifier": (
        ["launch.sample", "--workdir={classifier}"],
        "holds a classifier: give the workdir of a diffusion model",
    ),
    "a classifier of larger images": (
        [*SAMPLE, "--classifier_workdir={larger}", "--classifier_w=1"],
        "the classifier takes images of (16, 16, 1), the model draws (8, 8, 1)",
    ),
    "a classifier towards no label": (
        [*SAMPLE, "--labels=10", "--classifier_workdir={classifier}", "--classifier_w=1"],
        "label 10 means no label",
    ),
    "timesteps of a continuous schedule": (
        [*SAMPLE, "--respacing=ddim25"],
        "this model's schedule is continuous",
    ),
    "an upsampler that is none": (
        [*SAMPLE, "--upsampler_workdir={run}"],
        "no low_res input",
    ),
    "nothing to evaluate": (["launch.evaluate", "--workdir={run}"], "need one measurement"),
    "images without anything to compare with": (
        ["launch.evaluate", "--metrics=fid", "--samples={file}"],
        "--samples needs --workdir, whose data it is compared with, or --reference with",
    ),
    "no images": (
        ["launch.evaluate", "--workdir={run}", "--metrics=fid", "--samples={new}.npz"],
        "{new}.npz cannot be read: FileNotFoundError",
    ),
    "a weight of images that are there": (
        ["launch.evaluate", "--workdir={run}", "--metrics=fid", "--samples={file}", "--w=1"],
        "--w has no effect on --samples: leave it out",
    ),
    "an evaluation of nothing": (
        ["launch.evaluate", "--metrics=fid"],
        "--workdir is missing (--help lists the flags)",
    ),
    "neighbours in the training split alone": (
        ["launch.neighbours", "--workdir={run}", "--held_out=train"],
        "--held_out=train has images of the training split 'train'",
    ),
    "neighbours in a part of the training split": (
        ["launch.neighbours", "--workdir={run}", "--split=train+test"],
        "--held_out=test has images of the training split 'train+test'",
    ),
    "no images at all": (
        ["launch.evaluate", "--workdir={run}", "--metrics=fid", "--samples="],
        "--samples is empty: give a folder or an .npz",
    ),
    "a network for neighbours in pixels": (
        ["launch.neighbours", "--workdir={run}", "--inception={file}"],
        "--inception needs --space=features",
    ),
    "a reference of neighbours": (
        ["launch.neighbours", "--workdir={run}", "--reference={file}"],
        "--reference has no effect on neighbours: leave it out",
    ),
    "the likelihood of a classifier": (
        ["launch.evaluate", "--workdir={classifier}", "--likelihood"],
        "give the workdir of a diffusion model",
    ),
    "a flag without effect on the likelihood": (
        ["launch.evaluate", "--workdir={run}", "--likelihood", "--w=3"],
        "--w has no effect on --likelihood",
    ),
    "a flag without effect on the judge": (
        ["launch.judge", "--workdir={run}", "--num_samples=100"],
        "--num_samples has no effect on judge: give --samples_per_label",
    ),
    "an upsampler's steps without an upsampler": (
        [*SAMPLE, "--upsampler_num_steps=4"],
        "--upsampler_num_steps needs --upsampler_workdir",
    ),
    "a form of guidance without a classifier": (
        [*SAMPLE, "--classifier_form=adm"],
        "--classifier_form needs --classifier_workdir",
    ),
    "a checkpoint that the judge cannot load": (
        ["launch.judge", "--workdir={run}", "--checkpoint=7"],
        "no step 7 in",
    ),
    "the accuracy of a model": (
        ["launch.evaluate", "--workdir={run}", "--accuracy"],
        "holds no classifier",
    ),
    "a split that is not there": (
        ["launch.evaluate", "--workdir={run}", "--likelihood", "--split=dev"],
        "dev",
    ),
    "a bound beyond the schedule": (
        ["launch.evaluate", "--workdir={run}", "--likelihood", "--logsnr_max=30"],
        "logsnr_max=30.0",
    ),
    "a name that OpenAI did not use": (
        ["launch.import_openai", "--checkpoint={file}", "--name=32x32", "--workdir={new}"],
        "64x64_diffusion",
    ),
    "a published name and a description": (
        [*IMPORT, "--name=64x64_diffusion", "--config={file}"],
        "--name=64x64_diffusion --config={file}: give one of them",
    ),
    "nothing that says which network": (IMPORT, "--name= --config=: give one of them"),
    "a description that is not there": (
        [*IMPORT, "--config={new}/flags.json"],
        "{new}/flags.json: [Errno 2] No such file",
    ),
    "a table without a weight": (["launch.exactness", "--w=0", "--out={new}/a.png"], "--w=0"),
    "a figure in the name of another type": (
        ["launch.mixture", "--out={new}/a.jpg"],
        "--out={new}/a.jpg: need a name that ends in .png",
    ),
    "a figure without spread": (["launch.mixture", "--std=0", "--out={new}/a.png"], "--std=0"),
}


def write_run(workdir, config, side=8):
    """Writes a run of an untrained network of square images with the digits' labels."""
    model = random_model(config, shape=(side, side, 1))
    data = {"shape": [side, side, 1], "label_names": list(DIGITS), "fingerprint": {}}
    run_folder.write(workdir, model.params, config=to_json(model.config), meta={"data": data})


@pytest.fixture(scope="module")
def places(data_dir, tmp_path_factory):
    """Folder with all paths that the cases need, a home and a temporary folder."""
    data.prepare("digits", data_dir)
    folder = tmp_path_factory.mktemp("mistakes")
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    (folder / "file").write_text("kept")
    foreign = folder / "foreign" / "checkpoints" / "7" / "weights"
    foreign.mkdir(parents=True)
    (foreign / "data").write_text("kept")
    write_run(folder / "run", tiny_config(**{"data.data_dir": data_dir}))
    write_run(folder / "classifier", tiny_classifier(**{"data.data_dir": data_dir}))
    write_run(folder / "larger", tiny_classifier(), 16)
    return folder


def state(folder):
    """All files and folders, with modification times."""
    # TFDS leaves empty temporary folders behind.
    temporary = {folder / "tmp", *(folder / "tmp").iterdir()}
    return {path: path.lstat().st_mtime_ns for path in {*folder.rglob("*")} - temporary}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_nothing_on_disk(places, mistake):
    arguments, said = MISTAKES[mistake]
    names = ("run", "new", "file", "foreign", "classifier", "larger")
    paths = {name: places / name for name in names}
    before, beside = state(places), set(ROOT.iterdir())
    done = run_program(
        *(argument.format(**paths) for argument in arguments),
        devices=2,
        # The compilation cache would be written to the workdir.
        environment={
            "JAX_COMPILATION_CACHE_DIR": None,
            "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": None,
            "HOME": str(places / "home"),
            "TMPDIR": str(places / "tmp"),
        },
    )
    lines = [line for line in done.stderr.splitlines() if "OpenCV" not in line]
    assert done.returncode not in (0, None), done
    assert any(said.format(**paths) in line for line in lines) and len(lines) <= 2, done
    assert "Traceback" not in done.stderr
    after = state(places)
    assert not {path for path in after if after[path] != before.get(path)}, done
    assert after == before and set(ROOT.iterdir()) == beside


def test_the_help_of_every_required_flag_says_so():
    for path in sorted((ROOT / "launch").glob("*.py")):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        named = {
            ast.unparse(call.args[0])
            for call in calls
            if ast.unparse(call.func) == "flags.mark_flag_as_required"
        }
        for call in calls:
            if not ast.unparse(call.func).partition(".")[2].startswith("DEFINE_"):
                continue
            marked = any(k.arg == "required" for k in call.keywords)
            if marked or ast.unparse(call.args[0]) in named:
                assert call.args[2].value.endswith("required."), ast.unparse(call)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_no_error_and_its_flags_are_described(program):
    done = run_program("launch", program.replace("_", "-"), "--help")
    assert done.returncode == 0 and not done.stderr, done
    usage, _, described = done.stdout.partition("\nflags:\n")
    assert f"cfg-jax {program} --" in usage and "launch." not in usage, done
    texts = re.findall(r"^  --(\[no\])?[a-z_]+(=.*)?\n {6}(?P<help>.*)", described, re.MULTILINE)
    assert len(texts) == len(re.findall(r"^ {2,3}-", described, re.MULTILINE)) > 1
    assert all(re.match(r"[A-Z$]", text) for *_, text in texts), texts
    assert max(map(len, described.splitlines())) <= 80
    assert " sweep" not in described.replace("/sweep", "") or program == "sweep"


@pytest.mark.parametrize("program", ["judge", "train"])
def test_help_leaves_out_flags_without_effect_on_the_program(program):
    shown = run_program("launch", program, "--help").stdout
    assert ("  --process_id\n" in shown) == (program == "train")
    assert "  --label_plan\n" not in shown


def test_every_module_that_defines_flags_has_a_heading_in_help():
    for path in ROOT.glob("launch/[!_]*.py"):
        text = path.read_text()
        if "flags.DEFINE_" in text and 'if __name__ == "__main__"' not in text:
            assert path.stem in help._HEADINGS, path


def test_solver_interval_rule_and_weaker_model_are_flags_and_telemetry_is_plotted(
    tiny_run, tmp_path
):
    done = run_program(
        *("launch.sample", f"--workdir={tiny_run}", f"--out={tmp_path}", "--labels=1,2"),
        *("--solver=unipc_2:grid=karras:num_steps=5", "--interval=-3,4", "--w=1,2"),
        *("--rule=apg:r=3", f"--weaker_workdir={tiny_run}", "--weaker_checkpoint=2"),
        *("--schedule=linear:least=0.5", "--threshold=0.99", "--telemetry"),
        "--dtype=bfloat16",
    )
    assert done.returncode == 0, done
    archive, picture, measured, plot = map(Path, done.stdout.split()[:4])
    assert picture.stat().st_size > 1000 and plot.stat().st_size > 10_000
    with np.load(archive) as file:
        assert file["images"].shape == (2, 1, 2, 8, 8, 1)
    with np.load(measured) as file:
        assert file["gap"].shape == (2, 5, 2) and file["columns"].tolist() == ["w = 1", "w = 2"]
        inside = (file["logsnr"] >= -3) & (file["logsnr"] < 4)
        np.testing.assert_array_equal(file["gap"].any(axis=2), inside)


@pytest.mark.parametrize("program", ["sample", "evaluate", "sweep", "judge"])
def test_help_lists_the_flags_of_a_request_for_samples(program):
    done = run_program(f"launch.{program}", "--help")
    for flag in ("w", "num_steps", "solver", "respacing", "score_temperature", "classifier_w"):
        assert re.search(rf"^  --{flag}(=.*)?$", done.stdout, re.MULTILINE), done
    assert "\nsamples:\n" in done.stdout and "\nsolver and guidance:\n" in done.stdout


def test_every_program_can_be_named():
    sources = {path.stem: path.read_text() for path in ROOT.glob("launch/[!_]*.py")}
    programs = {name for name, text in sources.items() if 'if __name__ == "__main__"' in text}
    assert programs == set(PROGRAMS)


def test_without_a_name_the_programs_are_listed():
    done = run_program("launch")
    assert done.returncode == 0, done
    for name in PROGRAMS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", done.stdout, re.MULTILINE), done


def test_an_unknown_name_costs_one_line_with_the_known_ones():
    done = run_program("launch", "smaple", "--w=1")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "error: program 'smaple' is unknown: did you mean sample?\n"
    done = run_program("launch", "draw")
    assert done.stderr.startswith("error: program 'draw' is unknown: choose one of train, sample")


def test_the_version_is_that_of_the_package():
    done = run_program("launch", "--version")
    assert (done.returncode, done.stdout) == (0, f"cfg_jax {cfg_jax.__version__}\n")


def test_a_config_is_given_by_name_or_path():
    path = f"--config={ROOT / 'configs' / 'digits.py'}"
    for given in (["--config=digits"], ["--config", "digits"], ["-config=digits"], [path]):
        assert fields.with_config_path(["x", *given, "--w=1"]) == ["x", path, "--w=1"]


def test_a_figure_of_the_mixture_is_drawn(tmp_path):
    from PIL import Image

    path = tmp_path / "mixture.png"
    done = run_program("launch.mixture", f"--out={path}", "--w=0,4", "--num_steps=16", "--count=20")
    assert done.returncode == 0, done
    width, height = Image.open(path).size
    assert 0.9 < width / height < 1.1  # two columns of two squares


def test_guided_densities_are_densities_and_move_away_from_the_other_classes():
    import numpy as np

    from cfg_jax.study import mixture_figure

    mixture = mixture_figure.three_gaussians(0.5)
    cell = 2 * mixture_figure.REACH / 150
    heights = []
    for w in (0.0, 1.0, 4.0):
        densities = mixture_figure.guided_densities(mixture, w, 151)
        np.testing.assert_allclose(densities.sum((1, 2)) * cell**2, 1, rtol=1e-6)
        axis = np.linspace(-mixture_figure.REACH, mixture_figure.REACH, 151)
        heights.append((densities[0].sum(1) * axis).sum() * cell**2)
    # Class 0 has its mean at (0, 1) without guidance.
    np.testing.assert_allclose(heights[0], 1.0, atol=2e-3)
    assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--guidance_scale=7.5", "--guidance_scale=7.5 is not a flag of this program: use --w=6.5"),
        ("--cfg=3", "use --w=2"),
        ("--scale=many", "use --w"),
        ("--num_inference_steps=50", "use --num_steps"),
        ("--steps=50", "use --num_steps"),
        ("--wrokdir=runs", "did you mean --workdir?"),
        ("--lr=0.1", "did you mean --config.optim.learning_rate?"),
        ("--batch_size=8", "did you mean --config.train.batch_size?"),
        ("--output_dir=runs", "use --workdir"),
        ("--max_train_steps=9", "use --config.train.num_steps"),
        ("--qqq", "--qqq is not a flag of this program"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_one_that_is_meant(given, said):
    names = ("w", "num_steps", "workdir", "config.sampling.num_steps", "config.train.num_steps")
    names += ("config.optim.learning_rate", "config.train.batch_size")
    error = flags.UnrecognizedFlagError(given[2:].partition("=")[0], given)
    assert help.unknown(error, names).endswith(said)


def test_a_list_with_blanks_is_answered_with_the_form_with_commas():
    assert "a list has commas, as in --w=0,1,3" in program._unexpected("-1.5")


def test_a_field_without_a_config_is_missing_the_config():
    done = run_program("launch.train", "--workdir=runs/x", "--config.train.num_steps=80")
    said = "error: --config is missing, which has the field --config.train.num_steps\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_field_of_training_is_meant_before_one_of_sampling():
    error = flags.UnrecognizedFlagError("steps", "--steps=5")
    names = ["config.sampling.num_steps", "config.train.num_steps"]
    assert help.unknown(error, names).endswith("use --config.train.num_steps")
