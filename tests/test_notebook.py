from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "guidance.ipynb"


def pictures(notebook):
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return [output for output in outputs if "image/png" in output.get("data", {})]


def test_the_notebook_can_be_read_without_running_it():
    assert len(pictures(nbformat.read(NOTEBOOK, as_version=4))) == 5
    assert NOTEBOOK.stat().st_size < 200_000


def test_the_notebook_runs_from_its_first_cell_to_its_last(tiny_run, monkeypatch):
    monkeypatch.setenv("CFG_JAX_WORKDIR", str(tiny_run))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    assert len(pictures(notebook)) == 5
