"""The front page and the pages of docs/: examples run, commands and links lead to files."""

import inspect
import pydoc
import re
import runpy
import shlex
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

import cfg_jax
from cfg_jax.config.validate import flatten, validate
from cfg_jax.core.telemetry import Telemetry
from cfg_jax.training.run import train
from configs import base
from tests.tiny import pixel_model, pixel_networks, tiny_config

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [README, *sorted((ROOT / "docs").rglob("*.md"))]
}


def test_a_sentence_of_a_page_is_in_lines_of_at_most_100_columns():
    for page, text in PAGES.items():
        without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for line in without_code.splitlines():
            whole = line.startswith(("|", "#", "![", "<", ":::"))  # of one line in Markdown
            assert whole or len(line) <= 100, f"{page}: {line}"


def test_a_line_of_code_of_a_page_is_as_wide_as_the_column_of_the_site_or_less():
    for page, text in PAGES.items():
        for block in re.findall(r"^```.*?^```", text, flags=re.MULTILINE | re.DOTALL):
            assert max(map(len, block.splitlines())) <= 100, f"{page}: {block}"


def in_navigation(entries):
    """The pages of a navigation; an entry with a title of its own is a section."""
    for entry in entries:
        if isinstance(entry, str):
            yield f"docs/{entry}"
        else:
            (section,) = entry.values()
            yield from in_navigation(section)


def test_the_navigation_has_every_page_once_and_under_its_own_title():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert sorted(in_navigation(navigation)) == sorted(set(PAGES) - {"README.md"})


@pytest.mark.parametrize(
    ("html", "marked"),
    [
        (
            "<p><code>cfg-jax --w=1</code></p>",
            '<p><code><span class="whole">cfg-jax</span> <span class="whole">--w=1</span></code>',
        ),
        ("<code>&lt;</code>", '<code><span class="whole">&lt;</span></code>'),
        ("<pre><span></span><code>a\n</code></pre>", "<pre><span></span><code>a\n</code></pre>"),
        (f"<code>test_{'x' * 40}::y</code>", f"<code>test_<wbr>{'x' * 40}::<wbr>y</code>"),
    ],
)
def test_words_of_inline_code_move_to_the_next_line_as_a_whole_except_long_ones(html, marked):
    mark = runpy.run_path(str(ROOT / "docs" / "whole_words.py"))["on_page_content"]
    assert marked in mark(html, page=None)


def blocks(language, pages=PAGES):
    """(page, text) of every code block in a language."""
    for page in pages:
        for block in re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL):
            yield page, block


def example(fragment):
    """The only Python example that contains the fragment."""
    (found,) = [block for _, block in blocks("python") if fragment in block]
    return found


def test_the_front_page_is_short():
    lines = PAGES["README.md"].splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("page", "fragment"),
    [("README.md", "# uint8 [10, 8, 8, 1]"), ("docs/index.md", "part of the package")],
)
def test_the_library_example_runs_as_printed(page, fragment, tiny_run, tmp_path, monkeypatch):
    text = example(fragment)
    assert (page, text) in blocks("python")
    assert len(text.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    # A smaller network than that of the package, which takes seconds to compile.
    monkeypatch.setattr(cfg_jax, "pretrained", {"digits": cfg_jax.load(tiny_run)}.__getitem__)
    names = {}
    exec(text, names)
    assert names["images"].shape == (10, 8, 8, 1) and names["images"].dtype == np.uint8
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.width > picture.height  # a row of ten


def test_the_classifier_example_runs_as_printed(tiny_classifier_run, tmp_path, data_dir):
    text = example("classifier_w=")
    names = {}
    with pixel_networks():
        train(tiny_config(**{"data.data_dir": data_dir}), tmp_path)
        text = text.replace("runs/digits_classifier", str(tiny_classifier_run))
        exec(text.replace("runs/digits", str(tmp_path)), names)
    assert names["images"].shape == (10, 8, 8, 1) and names["images"].dtype == np.uint8


def test_the_mathematics_example_runs_and_prints_what_its_comment_says(capsys):
    text = example("GaussianMixture")
    assert ("README.md", text) in blocks("python")
    names = {}
    exec(text, names)
    printed = np.array(capsys.readouterr().out.strip("[] \n").split(), float)
    said = np.array(re.search(r"# \[(.+?)\]", text)[1].split(","), float)
    np.testing.assert_allclose(printed, said, atol=0.01)
    # Guidance moves each class away from the others, beyond its mean.
    assert np.abs(names["x"]).max() < 10


def test_the_page_on_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cfg_jax, "pretrained", {"digits": pixel_model(tiny_config())}.__getitem__)
    text = "\n".join(block for _, block in blocks("python", ["docs/in_python.md"]))
    names = {}
    with pixel_networks(), jax.numpy_rank_promotion("allow"):  # as for users
        exec(text.replace("num_steps=1000", "num_steps=3"), names)
    assert names["measured"].gap_ratio.shape == (64, 10)
    assert cfg_jax.load("runs/points").label_names == ("east", "northwest", "southwest")
    assert {path.name for path in tmp_path.iterdir()} >= {"digits.png", "calls.png", "calls.gif"}
    assert names["drawn"].shape == (300, 2)


def test_the_page_on_python_names_all_of_telemetry():
    named = re.findall(r"^\| `(\w+)` \| \[T", PAGES["docs/in_python.md"], flags=re.MULTILINE)
    assert tuple(named) == Telemetry._fields


def test_the_example_for_users_of_diffusers_runs_as_printed(tiny_run):
    text, names = example("pipe.scheduler"), {}
    exec(text.replace("runs/digits", str(tiny_run)), names)
    assert names["images"].shape == (1, 8, 8, 1) and names["images"].dtype == np.uint8


def test_the_checkpoint_example_loads_the_step_it_names(tiny_run):
    text, names = example("step=600"), {}
    step = cfg_jax.load(tiny_run).step
    exec(text.replace("runs/digits", str(tiny_run)).replace("step=600", f"step={step}"), names)
    assert names["model"].step == step


def test_the_config_example_is_valid_and_sets_known_fields():
    names = {}
    exec(example("tf_flowers"), names)
    config = names["get_config"]()
    validate(config, num_devices=8)
    known = dict(flatten(base.get_config().to_dict()))
    assert dict(flatten(config.to_dict())).keys() == known.keys()


def commands():
    """Every command of every page once, with the page that it is on first."""
    seen = set()
    for page, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                words = tuple(shlex.split(line.split(" # ")[0]))
                if words not in seen:
                    seen.add(words)
                    yield pytest.param(words, id=f"{page} {' '.join(words)}")


@pytest.mark.parametrize("command", list(commands()))
def test_what_a_command_names_is_there(command):
    program = command[1] if command[0] == "cfg-jax" else None
    if program:
        assert (ROOT / "launch" / f"{program}.py").exists(), program
    for part in command:
        if part.startswith("--config="):
            part = part.removeprefix("--config=").partition(":")[0]  # without its argument
            if program and "/" not in part:
                part = f"configs/{part}.py"
        if part.startswith(("launch.", "configs/", "launch/", "notebooks/")):
            path = (
                part.replace("launch.", "launch/") + ".py" if part.startswith("launch.") else part
            )
            assert (ROOT / path).exists(), path


def links():
    for page, text in PAGES.items():
        for link in sorted(set(re.findall(r"\]\((?!http)([^)#]+)", text))):
            yield pytest.param(page, link, id=f"{page} {link}")


@pytest.mark.parametrize(("page", "link"), list(links()))
def test_a_link_leads_to_a_file(page, link):
    assert ((ROOT / page).parent / link).exists()


def test_the_reference_has_every_public_name_once():
    named = re.findall(r"^::: cfg_jax\.(\w+)$", "\n".join(PAGES.values()), flags=re.MULTILINE)
    assert sorted(named) == sorted({*cfg_jax.__all__, "metrics"})


def entries():
    """(page, object) of every entry of the reference."""
    for page, text in PAGES.items():
        for name in re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE):
            yield page, name


def test_the_index_of_the_reference_links_to_every_public_name():
    index = PAGES["docs/api/index.md"]
    for page, name in entries():
        if name.count(".") == 1 and page != "docs/api/index.md":
            assert f"`]({Path(page).name}#{name})" in index, name


def classes_of(hint):
    """The classes of this package in a type."""
    if inspect.isclass(hint) and hint.__module__.startswith("cfg_jax"):
        yield hint
    parts = typing.get_args(hint)
    for part in (each for one in parts for each in (one if isinstance(one, list) else [one])):
        yield from classes_of(part)


def test_the_reference_has_the_classes_of_public_signatures():
    there = {pydoc.locate(name) for _, name in entries()}
    public = [*vars(cfg_jax.Model).values(), *(getattr(cfg_jax, name) for name in cfg_jax.__all__)]
    for function in filter(inspect.isfunction, public):
        if not function.__name__.startswith("_"):
            for hint in typing.get_type_hints(function).values():
                missing = set(classes_of(hint)) - there
                assert not missing, (function.__qualname__, missing)
