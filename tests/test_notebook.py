"""The notebook: stored with its outputs, run from its first cell to its last, sliders moved."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.tiny import shaken_model

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "guidance.ipynb"

MOVES = """
import jax.monitoring

events = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
for slider, value in zip(sliders.children, (4.0, "unipc_2", 8, 7, (-3.0, 6.0))):
    last = sliders.result.tobytes()
    slider.value = value
    assert sliders.result.tobytes() != last, slider
assert update(interval=(19.0, 19.5)) is None
paths(w=1.0, seed=1)
compiled = [name for name in events if "compile" in name]
assert not compiled, compiled
"""


def pictures(notebook):
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return [output for output in outputs if "image/png" in output.get("data", {})]


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_can_be_read_without_running_it(stored):
    assert len(pictures(stored)) == 9
    assert any("image/gif" in str(cell.get("outputs")) for cell in stored.cells)
    assert NOTEBOOK.stat().st_size < 600_000


def test_the_notebook_runs_and_its_sliders_compile_nothing(stored, tiny_run, tmp_path, monkeypatch):
    """A tiny run takes the place of the packed model, which compiles for longer."""
    run = str(tmp_path / "run")
    shaken_model(tiny_run).save(run)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = stored.copy()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.source = cell.source.replace(
                'cfg_jax.pretrained("digits")', f"cfg_jax.load({run!r})"
            )
    assert run in str(notebook)
    notebook.cells.append(nbformat.v4.new_code_cell(MOVES))
    NotebookClient(
        notebook, timeout=200, resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    assert len(pictures(notebook)) == 10  # one more by `paths`
