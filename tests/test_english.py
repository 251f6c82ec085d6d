"""The field's words: docstrings, comments, messages and docs without the idioms of a dialect."""

import ast
import functools
import re

import pytest

from tests.programs import ROOT

FOLDERS = [ROOT / name for name in ("cfg_jax", "launch", "configs")]
SOURCES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

# Each with the word of the field.
IDIOMS = {
    r"\banew\b": "again",
    r"\bgiven up\b|\bgives up\b": "donated",
    r"\bexchange[sd]?\b": "communicated, all-reduced",
    r"\bperson's mistake\b|\bmade a mistake\b": "user error",
    r"\b(seen|looked at) (through|with)\b": "embedded with",
    r"\bolder ways?\b|\bother ways? to\b": "baselines",
    r"\b(is|are) told\b|\btold to\b": "printed, logged",
    r"\basked for\b|\basks for\b": "requested",
    r"\bas many as\b|\bso many\b": "the number of",
    r"\bfor ever\b": "forever",
    r"\bthe first one\b": "process 0",
    r"\bfor want of\b|\bof a size that\b": "without, whose size",
    r"\bunlike (shapes|protocols|lengths|widths|sums|states|numbers)\b": "different",
    r"\bis no (?!op|longer|such)\w+ of\b": "is not",
}
# In the keys of recorded results.
ALLOWED = {"nothing exchanged", "nothing else exchanged", "exchanged"}

STARTS = r"(of|its|those|as many|so many|what|that of)\b"


@functools.cache
def prose(path):
    """(line, text) of all docstrings, other strings and comments, or of a page's lines."""
    text = path.read_text()
    if path.suffix == ".md":
        return list(enumerate(text.splitlines(), 1))
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    found = [(n.lineno, n.value) for n in nodes if isinstance(n.value, str)]
    comments = (re.search(r"(?:^|\s\s)#\s(.*)", line) for line in text.splitlines())
    return found + [(line, found[1]) for line, found in enumerate(comments, 1) if found]


@pytest.mark.parametrize("idiom", IDIOMS)
def test_no_sentence_has_an_idiom_of_the_dialect(idiom):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.strip()[:100]}"
        for path in [*SOURCES, *PAGES]
        for line, text in prose(path)
        if re.search(idiom, " ".join(text.split()), re.IGNORECASE) and text not in ALLOWED
    ]
    assert not found, f"write {IDIOMS[idiom]}:\n" + "\n".join(found)


def docstrings(path):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", path.stem), text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_description_starts_with_a_noun_or_a_verb(path):
    for name, text in docstrings(path):
        first = text.splitlines()[0]
        assert first.endswith("?") or not re.match(STARTS, first, re.IGNORECASE), (name, first)
        for line in text.splitlines():
            assert not re.match(rf" *[\w*]+(, [\w*]+)*: {STARTS}", line), (name, line)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_first_line_of_a_docstring_is_a_sentence(path):
    for name, text in docstrings(path):
        first = text.splitlines()[0]
        assert re.search(r"[.?:)\]]$", first), (name, first)
