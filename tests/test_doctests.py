"""The examples in public docstrings, run as a user would type them."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax.io import plots

ROOT = Path(__file__).parents[1]
GIVEN = {"cfg_jax": cfg_jax, "jax": jax, "jnp": jnp, "np": np}


def listed():
    """{name: object} of every class and function that the API reference lists."""
    text = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    names = {f"cfg_jax.{name}" for name in cfg_jax.__all__}
    names |= set(re.findall(r"^::: (cfg_jax[\w.]*)$", text, re.MULTILINE))
    return {name: found for name in sorted(names) for name, found in members(name)}


def members(name):
    """An object and its name; of a module of helpers, its public functions and classes."""
    found = cfg_jax
    for part in name.split(".")[1:]:
        found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
    if not inspect.ismodule(found):
        return [(name, found)]
    if found not in (cfg_jax.images, cfg_jax.keys, plots):
        return []  # the reference describes other modules as a whole
    own = vars(found).items()
    return [
        (f"{name}.{part}", each)
        for part, each in own
        if getattr(each, "__module__", "") == found.__name__ and not part.startswith("_")
    ]


EXAMPLES = {
    name: found
    for name, found in listed().items()
    if inspect.isclass(found) or inspect.isfunction(found)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_public_name_gives_what_it_says(name):
    found = EXAMPLES[name]
    given = vars(importlib.import_module(found.__module__)) | GIVEN
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(found, name, globs=given)
    assert test.examples, f"{name} has no example"
    said = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)
