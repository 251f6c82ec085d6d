"""Runs guidance.ipynb from its first cell to its last, and stores the outputs in it.

    python notebooks/execute.py

It needs the [notebook] extra and takes about two minutes on two CPU cores.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("guidance.ipynb")


def execute(path: Path) -> None:
    """Replaces the outputs of a notebook by those of a run in a new kernel."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,  # each run would change every cell
        coalesce_streams=True,
    ).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            # Pillow's pictures come as PNG and JPEG; one of them is shown.
            output.get("data", {}).pop("image/jpeg", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    execute(NOTEBOOK)
