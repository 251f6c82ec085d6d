"""The table of design: who may import whom, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cfg_jax"

MATHEMATICS = [
    "types",
    "keys",
    "schedules",
    "timesteps",
    "diffusion",
    "samplers",
    "guidance",
    "likelihood",
    "losses",
    "oracles",
]
OWN_IMPORTS = {
    "types": set(),
    "keys": {"types"},
    "schedules": {"types"},
    "timesteps": {"types"},
    "diffusion": {"types"},
    "samplers": {"types", "keys", "diffusion"},
    "guidance": {"types", "keys", "diffusion", "samplers"},
    "likelihood": {"types", "keys", "diffusion"},
    "losses": {"types", "keys", "diffusion", "guidance", "likelihood"},
    "oracles": {"types", "keys", "diffusion"},
    "train_state": {"types", "keys"},
    "distributed": set(),
    "folders": set(),
    "parallel": set(),
    "manifest": set(),
    "workdir_lock": set(),
    "interruption": set(),
    "watchdog": set(),
    "checkpoint": {"distributed", "manifest", "workdir_lock"},
    "images": {"types"},
    "metric_log": set(),
    "experiment": {"types", "diffusion", "models", "samplers", "schedules", "timesteps"},
    "configuration": {"diffusion", "experiment", "losses", "models"},
    "trained": {"experiment", "parallel"},
    "noisy_classifier": {"types", "trained"},
    "guided_sampler": {"experiment", "guidance", "noisy_classifier", "parallel", "samplers"},
    "mixture_figure": {"guidance", "images", "oracles", "samplers", "schedules"},
    "model": {
        "types",
        "keys",
        "configuration",
        "distributed",
        "experiment",
        "folders",
        "guidance",
        "guided_sampler",
        "images",
        "noisy_classifier",
        "parallel",
        "schedules",
        "trained",
        "checkpoint",
    },
    "generate": {"configuration", "images", "keys", "metric_log", "model", "types"},
    "evaluate": {
        "keys",
        "data",
        "diffusion",
        "distributed",
        "experiment",
        "likelihood",
        "metric_log",
        "model",
        "noisy_classifier",
        "parallel",
        "schedules",
    },
    "judge": {"data", "experiment", "generate", "model"},
    "metrics": {"folders", "images", "metrics"},
    "features": {"manifest", "metrics", "noisy_classifier", "parallel"},
    "evaluation": {
        "configuration",
        "data",
        "distributed",
        "evaluation",
        "features",
        "folders",
        "images",
        "keys",
        "manifest",
        "metric_log",
        "metrics",
        "model",
        "noisy_classifier",
    },
    "bulk": {
        "configuration",
        "distributed",
        "evaluation",
        "images",
        "manifest",
        "metric_log",
        "model",
        "noisy_classifier",
        "parallel",
        "workdir_lock",
    },
    "published": {"configuration", "evaluation", "features"},
    "curves": {"evaluation", "published"},
    "plots": {"curves", "evaluation", "folders", "images", "published"},
    "claims": {"curves", "evaluation"},
    "sweep_files": {"curves", "evaluation", "images"},
    "report": {"claims", "configuration", "curves", "evaluation", "images"},
    "sweep": {
        "curves",
        "evaluation",
        "experiment",
        "features",
        "generate",
        "images",
        "manifest",
        "model",
        "noisy_classifier",
    },
    "preflight": {
        "configuration",
        "data",
        "experiment",
        "guided_sampler",
        "manifest",
        "model",
        "parallel",
        "preflight",
        "train",
    },
}
ONLY_HERE = {
    "flax.linen": ["models/"],
    "orbax": ["checkpoint.py"],
    "tensorflow_datasets": ["data/"],
    "grain": ["data/"],
    "ml_collections": [
        "experiment.py",
        "configuration.py",
        "trained.py",
        "model.py",
        "train.py",
        "training_loop.py",
    ],
    "optax": ["train_state.py", "train.py"],
}


def imports(path):
    """Full dotted names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(path):
    return {name.split(".")[1] for name in imports(path) if name.startswith("cfg_jax.")}


@pytest.mark.parametrize("module", OWN_IMPORTS)
def test_a_module_imports_only_those_below_it(module):
    files = [*PACKAGE.glob(f"{module}.py"), *PACKAGE.glob(f"{module}/*.py")]
    assert files
    assert set().union(*map(own_modules, files)) <= OWN_IMPORTS[module]


@pytest.mark.parametrize("module", MATHEMATICS)
def test_mathematics_imports_only_jax_and_numpy(module):
    allowed = {"jax", "numpy", "cfg_jax", "collections", "dataclasses", "math", "numbers", "typing"}
    assert {name.split(".")[0] for name in imports(PACKAGE / f"{module}.py")} <= allowed


def test_networks_never_import_mathematics():
    for path in (PACKAGE / "models").glob("*.py"):
        assert own_modules(path) <= {"models"}


@pytest.mark.parametrize("library", ONLY_HERE)
def test_a_library_is_known_to_one_place_only(library):
    for path in PACKAGE.rglob("*.py"):
        where = str(path.relative_to(PACKAGE))
        if not any(where.startswith(place) for place in ONLY_HERE[library]):
            assert not any(f"{name}.".startswith(f"{library}.") for name in imports(path)), where


def test_no_file_or_function_outgrows_its_reader():
    for path in [*PACKAGE.rglob("*.py"), *ROOT.glob("launch/*.py")]:
        tree = ast.parse(path.read_text())
        assert len(path.read_text().splitlines()) <= 400, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                lines = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
                assert lines <= 50, f"{path}: {node.name} has {lines} lines"


def test_importing_the_package_loads_no_data_or_checkpoint_library():
    heavy = (
        "tensorflow",
        "tensorflow_datasets",
        "grain",
        "orbax",
        "torch",
        "matplotlib",
        "sklearn",
    )
    code = f"import sys, cfg_jax; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_all_names_are_there_and_sorted_as_ruff_sorts_them():
    import cfg_jax

    assert all(hasattr(cfg_jax, name) for name in cfg_jax.__all__)
    assert callable(cfg_jax.sample) and callable(cfg_jax.load)
