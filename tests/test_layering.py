"""Layering: imports in the source against the table of allowed imports."""

import ast
import functools
import graphlib
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest

pytestmark = pytest.mark.compat

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cfg_jax"

FOLDERS = {
    "core": set(),
    "models": set(),
    "runtime": set(),
    "io": set(),
    "config": {"core", "models"},
    "data": {"core", "io"},
    "storage": {"io", "runtime"},
    "metrics": {"io"},
    "interop": {"core", "io", "models", "storage"},
    "sampling": {"config", "core", "io", "runtime", "storage"},
    "training": {"config", "core", "data", "io", "runtime", "sampling", "storage"},
    "evaluation": {
        *("config", "core", "data", "io", "metrics", "runtime", "sampling", "storage", "training")
    },
    "study": {"config", "core", "data", "evaluation", "io", "sampling", "storage"},
    "preflight": {"config", "data", "io", "runtime", "sampling", "storage", "training"},
}
"""Folders that a folder may import, besides itself."""

PURE = {
    "jax",
    "numpy",
    "cfg_jax",
    "collections",
    "dataclasses",
    "difflib",
    "inspect",
    "math",
    "numbers",
    "operator",
    "typing",
    "zlib",
}
"""Libraries that core may import."""

HOMES = {
    "PIL": ["io/images.py", "io/plots.py", "data/"],
    "flax.linen": ["models/"],
    "gradio": ["study/explorer_page.py"],
    "grain": ["data/"],
    "jinja2": ["study/report.py"],
    "matplotlib": ["io/plots.py", "study/"],
    "ml_collections": ["config/", "sampling/", "training/"],
    "optax": ["training/"],
    "orbax": ["storage/checkpoint.py"],
    "safetensors": ["io/weight_files.py"],
    "sklearn": ["data/digits.py", "study/svm_judge.py"],
    "starlette": ["study/explorer_page.py"],
    "tensorboardX": ["io/events.py"],
    "tensorflow_datasets": ["data/"],
    "torch": [],
    "tqdm": ["io/progress.py"],
    "wandb": ["io/wandb_log.py"],
}
"""The only place that may import each library."""


@functools.cache
def imports(source):
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def sources():
    """{path below the package: text} of every module in a folder."""
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_text()
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE
    }


def own_imports(source, modules):
    """The modules of this package that a file imports, as paths below the package."""
    for name in imports(source):
        parts = name.split(".")[1:]
        if name.startswith("cfg_jax."):
            stems = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
            files = [file for stem in stems for file in (f"{stem}.py", f"{stem}/__init__.py")]
            yield next((file for file in files if file in modules), f"{parts[0]}.py")


def faults(modules):
    """Forbidden imports in {path: text} of modules, one per line."""
    graph = {path: set(own_imports(text, modules)) for path, text in modules.items()}
    for path, imported in sorted(graph.items()):
        folder = path.split("/")[0]
        if "/" not in path or folder not in FOLDERS:
            yield f"{path} is in no folder of the table"
            continue
        for other in sorted(imported):
            into = other.split("/")[0]
            if into != folder and into not in FOLDERS[folder]:
                yield f"{path} imports {other}"
        for name in imports(modules[path]):
            if folder == "core" and name.split(".")[0] not in PURE:
                yield f"{path} imports {name}"
            for library, homes in HOMES.items():
                if f"{name}.".startswith(f"{library}.") and not path.startswith(tuple(homes)):
                    yield f"{path} imports {name}, which is at home in {homes}"
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        yield f"a circle: {' imports '.join(reversed(error.args[1]))}"


def test_modules_import_only_those_below_them_and_libraries_only_where_they_are_at_home():
    assert list(faults(sources())) == []


def test_only_the_public_names_stand_outside_the_folders():
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]
    assert {path.split("/")[0] for path in sources()} == set(FOLDERS)


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("flat.py", "", "flat.py is in no folder of the table"),
        ("new/module.py", "", "new/module.py is in no folder of the table"),
        ("core/diffusion.py", "from flax import linen", "core/diffusion.py imports flax.linen"),
        ("core/keys.py", "import flax.linen as nn", "at home in ['models/']"),
        ("models/mlp.py", "from cfg_jax.core import keys", "models/mlp.py imports core/keys.py"),
        ("io/files.py", "from cfg_jax.metrics import rows", "io/files.py imports metrics/rows.py"),
        ("core/types.py", "from cfg_jax.core.losses import drop_labels", "a circle: "),
        ("storage/lock.py", "import cfg_jax.training.run", "storage/lock.py imports training/run"),
    ],
)
def test_a_module_that_breaks_the_layers_is_named(path, text, said):
    assert any(said in fault for fault in faults({**sources(), path: text}))


def test_networks_never_import_mathematics():
    assert not FOLDERS["models"]


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
        "jinja2",
        "sklearn",
    )
    code = f"import sys, cfg_jax; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture
def packaging(monkeypatch):
    """The arguments of setup.py, without setuptools."""
    given = {}
    stub = types.SimpleNamespace(find_packages=lambda **_: [], setup=given.update)
    monkeypatch.setitem(sys.modules, "setuptools", stub)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_every_file_of_the_package_is_installed_with_it(packaging):
    installed = {
        path for each in packaging["package_data"]["cfg_jax"] for path in PACKAGE.glob(each)
    }
    ours = {
        path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    }
    assert {path for path in ours if path.suffix != ".py"} == installed


def test_the_docs_have_a_table_of_all_extras(packaging):
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    table = page.partition("## Extras")[2].partition("## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert sorted(named) == sorted(packaging["extras_require"])


def test_every_public_name_is_there_once_and_in_order():
    import cfg_jax

    assert cfg_jax.__all__ == sorted(set(cfg_jax.__all__))
    assert all(hasattr(cfg_jax, name) for name in cfg_jax.__all__)


def test_images_and_keys_are_modules_under_their_public_names():
    from cfg_jax.images import grid
    from cfg_jax.keys import per_example

    from cfg_jax import images, keys

    assert grid is images.grid and per_example is keys.per_example
