"""The notebook: stored with its outputs, run from its first cell to its last, sliders moved."""

from pathlib import Path

import jax
import matplotlib.pyplot
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

import cfg_jax
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


def test_the_cells_run_and_the_sliders_compile_nothing(stored, tiny_run, tmp_path, monkeypatch):
    """In this process, since messages of widgets to and from a kernel can be lost.

    A tiny run takes the place of the packed model, which compiles for longer.
    """
    shaken_model(tiny_run).save(tmp_path / "run")
    monkeypatch.setattr(cfg_jax, "pretrained", lambda name: cfg_jax.load(tmp_path / "run"))
    matplotlib.use("agg")
    cells = [cell.source for cell in stored.cells if cell.cell_type == "code"]
    names = {}
    with jax.numpy_rank_promotion("allow"):
        for source in [*cells, "sliders.update()", MOVES]:
            exec(TransformerManager().transform_cell(source), names)
    matplotlib.pyplot.close("all")
