"""Every notebook runs, is short, and is committed with its pictures."""

import os
import pathlib

import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs(path, monkeypatch):
  monkeypatch.setitem(os.environ, "XLA_FLAGS", "--xla_backend_optimization_level=1")
  notebook = nbformat.read(path, as_version=4)
  nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_is_short_and_has_its_pictures(path):
  cells = code(nbformat.read(path, as_version=4))
  assert len(cells) <= 15
  assert max(cell.source.count("\n") + 1 for cell in cells) <= 15
  outputs = [o for cell in cells for o in cell.outputs]
  assert any("image/png" in o.get("data", {}) for o in outputs), "no picture"
  assert all(o.output_type != "error" for o in outputs)


def test_there_are_notebooks():
  assert NOTEBOOKS
