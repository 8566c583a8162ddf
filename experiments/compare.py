r"""Draws the held-out curves of several runs beside one another.

python -m experiments.compare --picture=compare.png runs/gla runs/s5 runs/attention
"""

import json
import pathlib

import matplotlib
from absl import app, flags

from jaxseq import training

PICTURE = flags.DEFINE_string("picture", "compare.png", "The PNG to write.")


def main(argv: list[str]) -> None:
  runs = [pathlib.Path(folder) for folder in argv[1:]]
  missing = [str(r) for r in runs if not (r / "metrics.jsonl").exists()]
  if missing or not runs:
    raise app.UsageError(f"give folders of runs; no metrics.jsonl in {missing}")
  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
  curves = [(name(run), held_out(run)) for run in runs]
  curves.sort(key=lambda curve: curve[1][-1][1])
  for (label, points), style in zip(curves, ["-", "--", "-.", ":"] * len(curves)):
    axis.plot(
      *zip(*points), style, marker="o", ms=3, label=f"{points[-1][1]:.3f}  {label}"
    )
  axis.set(xlabel="step", ylabel=quantity(runs[0]), title="held-out data")
  axis.legend(frameon=False, fontsize=8)
  axis.spines[["top", "right"]].set_visible(False)
  figure.savefig(PICTURE.value, dpi=150)
  print(PICTURE.value)


def name(run: pathlib.Path) -> str:
  """The pattern of mixers, from the run's config."""
  mixers = json.loads((run / "config.json").read_text())["mixer"].split(",")
  return mixers[0] if len(set(mixers)) == 1 else ", ".join(mixers)


def quantity(run: pathlib.Path) -> str:
  lines = training.read_metrics(run / "metrics.jsonl")
  return "bits_per_byte" if "bits_per_byte" in lines[0] else "loss"


def held_out(run: pathlib.Path) -> list[tuple[int, float]]:
  lines = training.read_metrics(run / "metrics.jsonl")
  key = quantity(run)
  return [(m["step"], m[key]) for m in lines if m["split"] == "held_out"]


if __name__ == "__main__":
  app.run(main)
