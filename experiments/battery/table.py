"""The results on disk: a file for each cell, and one table of them all.

    workdir/cells/MIXER--TASK.json     settings, rows, or why it failed
    workdir/results.csv                all rows

A cell's file appears whole or not at all, so a battery that was killed goes on with the
cells that have none, and several processes can share a folder.
"""

import csv
import json
import os
import pathlib

from experiments.battery import cells

__all__ = ["Table", "read_csv", "text", "write_csv"]


class Table:
  """The cells in a folder."""

  def __init__(self, workdir: str | os.PathLike):
    self.workdir = pathlib.Path(workdir)

  def path(self, cell: cells.Cell) -> pathlib.Path:
    return self.workdir / "cells" / f"{cell.name}--{cell.task}.json"

  def read(self, cell: cells.Cell) -> dict | None:
    """What is there of a cell, or None.

    Raises:
      ValueError: If it was made with other settings; names each with both values.
    """
    path = self.path(cell)
    if not path.exists():
      return None
    found = json.loads(path.read_text())
    had = dict(_flat(found["settings"]))
    want = dict(_flat(json.loads(json.dumps(cell.settings()))))
    differ = [
      f"{name}: {had.get(name, 'absent')} -> {want.get(name, 'absent')}"
      for name in sorted(had | want)
      if had.get(name) != want.get(name)
    ]
    if differ:
      raise ValueError(
        f"{path} was made with other settings: {'; '.join(differ)}; give another "
        "--workdir or the same settings"
      )
    return found

  def write(self, cell: cells.Cell, rows: list[dict], seconds: float) -> None:
    path = self.path(cell)
    found = dict(settings=cell.settings(), seconds=round(seconds, 2), rows=rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".tmp")
    whole.write_text(json.dumps(found, indent=1))
    whole.rename(path)

  def settings(self) -> dict:
    """What the page says of the runs: the fields of a cell's size."""
    return json.loads(self._paths()[0].read_text())["settings"]["size"]

  def rows(self) -> list[dict]:
    """Of all cells in the folder."""
    return [
      row for path in self._paths() for row in json.loads(path.read_text())["rows"]
    ]

  def _paths(self):
    return sorted((self.workdir / "cells").glob("*.json"))


def _flat(tree, prefix: str = ""):
  items = tree.items() if isinstance(tree, dict) else enumerate(tree)
  for key, value in items:
    if isinstance(value, dict | list) and value:
      yield from _flat(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def write_csv(path: str | os.PathLike, rows: list[dict]) -> None:
  """The rows as text, numbers with four digits; what a row lacks is empty."""
  path = pathlib.Path(path)
  whole = path.with_suffix(".tmp")
  with open(whole, "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(cells.COLUMNS)
    for row in rows:
      writer.writerow([text(row.get(column)) for column in cells.COLUMNS])
  whole.rename(path)


def text(value):
  """Numbers with four digits."""
  return f"{value:.4g}" if isinstance(value, float) else value


TEXTS = {
  *("mixer", "task", "ability", "question", "difficulty", "metric"),
  *("device", "dtype", "versions", "status"),
}


def read_csv(path: str | os.PathLike) -> list[dict]:
  """The rows; numbers as float, None where there is none."""
  with open(path, newline="") as file:
    return [
      {k: v if k in TEXTS else float(v) if v else None for k, v in row.items()}
      for row in csv.DictReader(file)
    ]
