r"""Writes a table of finished runs in Markdown, a row each.

python -m experiments.results runs/digits_*
"""

import dataclasses
import json
import math
import pathlib

import jax
import ml_collections
from absl import app

from experiments import build
from jaxseq import data, training

COLUMNS = (
  *("data", "mixer", "parameters", "steps", "batch", "learning rate"),
  *("weight decay", "EMA", "held out", "minutes"),
)


def main(argv: list[str]) -> None:
  runs = [pathlib.Path(folder) for folder in argv[1:]]
  missing = [str(r) for r in runs if not (r / "metrics.jsonl").exists()]
  if missing or not runs:
    raise app.UsageError(f"give folders of runs; no metrics.jsonl in {missing}")
  print(table(runs))


def table(runs: list[pathlib.Path]) -> str:
  """Markdown; runs of the same data together, the best first."""
  rows = sorted(map(row, runs), key=lambda r: (r["data"], -r["order"]))
  lines = [COLUMNS, ["---"] * len(COLUMNS), *([r[c] for c in COLUMNS] for r in rows)]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def row(run: pathlib.Path) -> dict:
  """What is known of a run, as text; "order" is a number, the larger the better."""
  c = ml_collections.ConfigDict(json.loads((run / "config.json").read_text()))
  lines = training.read_metrics(run / "metrics.jsonl")
  held_out = [m for m in lines if m["split"] == "held_out"][-1]
  params = build.build(c, jax.devices()[:1]).state_shapes.params
  accuracy = held_out.get("accuracy")
  return {
    "data": describe(c.data),
    "mixer": f"`{c.mixer}`",
    "parameters": f"{sum(p.size for p in jax.tree.leaves(params)):,}",
    "steps": f"{held_out['step']:,}",
    "batch": f"{c.batch_size} x {c.sequence_length}",
    "learning rate": f"{c.optimizer.learning_rate:g}",
    "weight decay": f"{c.optimizer.weight_decay:g}",
    "EMA": f"{c.ema_decay:g}",
    "held out": f"loss {held_out['loss']:.3f}"
    if accuracy is None
    else f"{accuracy:.1%}",
    "minutes": f"{seconds(c, lines) / 60:.1f}",
    "order": -held_out["loss"] if accuracy is None else accuracy,
  }


def describe(fields: ml_collections.ConfigDict) -> str:
  """The source, and those of its fields that are not the default."""
  config, _ = data.SOURCES[fields.name]
  default = {f.name: f.default for f in dataclasses.fields(config)}
  changed = [f"{k}={v}" for k, v in fields.items() if k != "name" and v != default[k]]
  return " ".join([fields.name, *changed])


def seconds(c: ml_collections.ConfigDict, lines: list[dict]) -> float:
  """Of training alone, compilation left out where more than one line was logged."""
  tokens = c.batch_size * c.sequence_length
  train = [m for m in lines if m["split"] == "train"]
  speeds = [m["tokens_per_second"] for m in train[1:] or train]
  return train[-1]["step"] * tokens * math.fsum(1 / s for s in speeds) / len(speeds)


if __name__ == "__main__":
  app.run(main)
