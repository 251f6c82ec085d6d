"""The notebook: stored with its outputs, run from its first cell to its last, sliders moved."""

from pathlib import Path

import jax
import matplotlib.pyplot
import nbformat
import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

import cfg_jax
from tests.tiny import shaken_model

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "guidance.ipynb"

MOVES = {"w": 4.0, "solver": "unipc_2", "calls": 8, "seed": 7, "interval": (-3.0, 6.0)}


def pictures(outputs):
    return [each["data"]["image/png"] for each in outputs if "image/png" in each.get("data", {})]


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_can_be_read_without_running_it(stored):
    assert len(pictures(output for cell in code(stored) for output in cell.outputs)) == 10
    assert any("image/gif" in str(cell.get("outputs")) for cell in stored.cells)
    assert NOTEBOOK.stat().st_size < 600_000


def test_a_reader_without_a_kernel_sees_one_picture_below_all_sliders(stored):
    cells = [cell for cell in code(stored) if "FloatSlider" in cell.source]
    assert len(cells) == 2
    for cell in cells:
        sliders, picture = (output.data for output in cell.outputs)
        assert "application/vnd.jupyter.widget-view+json" in sliders and "image/png" in picture


def test_the_outputs_are_those_that_execute_stores(stored):
    """Pictures of one kind, and no times, which would change every cell."""
    for cell in code(stored):
        assert not cell.metadata
        assert not any("image/jpeg" in output.get("data", {}) for output in cell.outputs)


def pictures_of(shell, change, *arguments):
    """The pictures that a change of sliders displays."""
    shell.display_pub.outputs.clear()
    change(*arguments)
    return pictures(shell.display_pub.outputs)


@pytest.fixture
def shell():
    """IPython in this process, since messages of widgets to and from a kernel can be lost."""
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    shell.display_pub = CapturingDisplayPublisher()
    yield shell
    InteractiveShell.clear_instance()


def test_the_cells_run_and_the_sliders_draw_and_compile_nothing(
    stored, shell, tiny_run, tmp_path, monkeypatch
):
    """A tiny run takes the place of the packed model, which compiles for longer."""
    shaken_model(tiny_run).save(tmp_path / "run")
    monkeypatch.setattr(cfg_jax, "pretrained", lambda name: cfg_jax.load(tmp_path / "run"))
    matplotlib.use("agg")
    with jax.numpy_rank_promotion("allow"):
        for cell in code(stored):
            shell.run_cell(cell.source).raise_error()
        events = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda name, *_, **__: events.append(name)
        )
        for sliders in (shell.user_ns["sliders"], shell.user_ns["paths_sliders"]):
            shown = pictures_of(shell, sliders.update)
            for slider in sliders.kwargs_widgets:
                moved = pictures_of(shell, slider.set_trait, "value", MOVES[slider.description])
                assert len(shown) == len(moved) == 1 and moved != shown, slider
                shown = moved
        interval = shell.user_ns["sliders"].kwargs_widgets[-1]
        assert not pictures_of(shell, interval.set_trait, "value", (19.0, 19.5))
    compiled = [name for name in events if "compile" in name]
    assert not compiled, compiled
    matplotlib.pyplot.close("all")
