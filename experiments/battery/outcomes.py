"""What became of a claim: its numbers, and which of its conditions hold.

workdir/claims/CLAIM/cells/MIXER--TASK.json     its cells
workdir/claims/CLAIM/outcome.json
workdir/claims.csv                              the numbers of all claims
"""

import csv
import json
import os
import pathlib

from experiments.battery import pictures, table

__all__ = [
  "COLUMNS",
  "Measured",
  "judge",
  "line",
  "read",
  "results",
  "write",
  "write_csv",
]

NUMBERS = (
  *("mixer", "task", "difficulty", "question", "length", "trained_length", "metric"),
  *("value", "low", "high", "chance", "state_bytes", "parameters", "learning_rate"),
)
COLUMNS = ("claim", "papers", "size", "outcome", *NUMBERS, "device")


class Measured:
  """The numbers of a claim's cells, each its mean over the seeds at the best rate.

  measured("lstm", times=2)         at twice the length that it was trained at
  """

  def __init__(self, rows: list[dict]):
    self.rows = list(pictures.answers(rows).values())

  def row(self, mixer: str, difficulty: str | None = None, times: int = 1) -> dict:
    """The first such row, of any difficulty if none is named.

    Raises:
      KeyError: If there is none.
    """
    for row in self.rows:
      right = difficulty in (None, row["difficulty"])
      at = row["length"] == times * row["trained_length"]
      if row["mixer"] == mixer and right and at:
        return row
    raise KeyError(f"{mixer}, {difficulty} at {times} times the trained length")

  def __call__(
    self, mixer: str, difficulty: str | None = None, times: int = 1
  ) -> float:
    return self.row(mixer, difficulty, times)["value"]

  def share(self, mixer: str, difficulty: str | None = None, times: int = 1) -> float:
    """Of the distance to the optimum that the best constant answer has."""
    row = self.row(mixer, difficulty, times)
    return row["value"] / row["chance"]

  def least(self, name: str) -> float:
    """The least of a column."""
    return min(row[name] for row in self.rows)

  def most(self, name: str) -> float:
    return max(row[name] for row in self.rows)


def results(workdir: str | os.PathLike, name: str) -> table.Table:
  """The cells of a claim."""
  return table.Table(pathlib.Path(workdir) / "claims" / name)


def judge(claim, rows: list[dict]) -> dict:
  """The outcome of a claim, as JSON has it.

  Args:
    claim: See `claims.Claim`.
    rows: Of its cells.

  Returns:
    Among others "outcome", which is "reproduced", "not reproduced", or if a cell failed
    "could not run", and "conditions", the words of each and if it holds.
  """
  order = [cell.name for cell in claim.cells]
  rows = sorted(rows, key=lambda row: order.index(row["mixer"]))
  failed = [f"{r['mixer']}: {r['status']}" for r in rows if r["status"] != "done"]
  measured = Measured(rows)
  conditions = []
  if not failed:
    conditions = [(c.words, bool(c.holds(measured))) for c in claim.conditions]
  word = "reproduced" if all(ok for _, ok in conditions) else "not reproduced"
  return dict(
    claim=claim.name,
    says=claim.says,
    papers=list(claim.papers),
    note=claim.note,
    size=claim.cells[0].size.name,
    outcome="could not run" if failed else word,
    failed=failed,
    conditions=conditions,
    numbers=[{name: row[name] for name in NUMBERS} for row in measured.rows],
    device=rows[0]["device"],
  )


def line(outcome: dict) -> str:
  """The outcome in a line for each condition, and one of numbers."""
  papers = ", ".join(outcome["papers"])
  lines = [f"{outcome['outcome'].upper():<15} {outcome['claim']} ({papers})"]
  lines += [f"    {_text(row)}" for row in outcome["numbers"]]
  lines += [
    f"    {'yes' if holds else 'NO ':<3}  {words}"
    for words, holds in outcome["conditions"]
  ]
  return "\n".join(lines + [f"    {why}" for why in outcome["failed"]])


def _text(row: dict) -> str:
  spread = f"{row['low']:.3g} to {row['high']:.3g}"
  chance = "" if row["chance"] is None else f", chance {row['chance']:.3g}"
  return (
    f"{row['mixer']:<26} {row['difficulty']}, T = {row['length']}: "
    f"{row['metric']} {row['value']:.3g} ({spread}{chance})"
  )


def write(workdir: str | os.PathLike, outcome: dict) -> None:
  path = results(workdir, outcome["claim"]).workdir / "outcome.json"
  whole = path.with_suffix(".tmp")
  whole.write_text(json.dumps(outcome, indent=1))
  whole.rename(path)


def write_csv(path: str | os.PathLike, found: list[dict]) -> None:
  """The numbers of all outcomes, a row each."""
  with open(path, "w", newline="") as file:
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for outcome in found:
      constant = outcome | {"papers": " ".join(outcome["papers"])}
      for row in outcome["numbers"]:
        writer.writerow({k: table.text(v) for k, v in (constant | row).items()})


def read(workdir: str | os.PathLike) -> list[dict]:
  """All outcomes in a folder, in order of their names."""
  paths = pathlib.Path(workdir).glob("claims/*/outcome.json")
  return [json.loads(path.read_text()) for path in sorted(paths)]
