"""What a run shows: a line that moves on, a file of numbers, TensorBoard, a picture.

`metrics.jsonl` has a line for each time that training or held-out data was measured,
with "step" and "split"; the picture is drawn from it.
"""

import datetime
import json
import math
import os
import pathlib
import sys
import time

import jax

__all__ = ["MetricsWriter", "draw_curves", "read_metrics"]


class MetricsWriter:
  """Writes the metrics of a run. Only the first process writes."""

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    total_steps: int,
    tokens_per_step: int,
    start: int = 0,
    bits_per_byte: bool = False,
  ):
    """Drops what an earlier run measured after step `start`, and a torn last line.

    Args:
      directory: Where the files are; made if it is not there.
      total_steps: For the time left.
      tokens_per_step: For tokens a second.
      start: The step that the run goes on from.
      bits_per_byte: Whether a loss in nats is that of a byte, and its bits are shown.
    """
    self.directory = pathlib.Path(directory)
    self.total_steps, self.tokens_per_step = total_steps, tokens_per_step
    self.bits_per_byte = bits_per_byte
    self._step, self._time = start, time.perf_counter()
    self._seconds_per_step = None
    self._shown = ""  # The moving line, on a terminal.
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    from tensorboardX import SummaryWriter

    self.directory.mkdir(parents=True, exist_ok=True)
    self.path = self.directory / "metrics.jsonl"
    kept = [m for m in read_metrics(self.path) if m["step"] <= start]
    whole = self.path.with_suffix(".tmp")
    whole.write_text("".join(json.dumps(m) + "\n" for m in kept))
    whole.rename(self.path)
    self._file = self.path.open("a")
    # TensorBoard drops the events of this step too, and `start` was measured.
    self._board = SummaryWriter(
      str(self.directory / "tensorboard"), purge_step=start + 1
    )

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    if self._writes:
      self._end_line()
      self._file.close()
      self._board.close()
      draw_curves(self.path, self.directory / "curves.png")

  def train(self, step: int, metrics: dict) -> None:
    """Records what `make_step`'s function measured, and shows it."""
    values = {name: float(value) for name, value in metrics.items()}
    now = time.perf_counter()
    self._seconds_per_step = (now - self._time) / max(step - self._step, 1)
    self._step, self._time = step, now
    values["tokens_per_second"] = self.tokens_per_step / self._seconds_per_step
    self._record(step, "train", values)
    left = int((self.total_steps - step) * self._seconds_per_step)
    line = f"step {step}/{self.total_steps}  loss {values['loss']:.4f}"
    if self.bits_per_byte:
      line += f"  {values['loss'] / math.log(2):.3f} bits per byte"
    elif "accuracy" in values:
      line += f"  accuracy {values['accuracy']:.1%}"
    line += f"  {values['tokens_per_second']:,.0f} tokens/s"
    line += f"  ETA {datetime.timedelta(seconds=left)}"
    if values.get("skipped"):
      line += f"  skipped {values['skipped']:.0f}"
    self._show(line)

  def evaluation(self, step: int, metrics: dict[str, float]) -> None:
    """Records means over held-out data, and shows them on a line that stays."""
    self._record(step, "held_out", metrics)
    line = f"step {step}  held-out loss {metrics['loss']:.4f}"
    if self.bits_per_byte:
      line += f"  {metrics['loss'] / math.log(2):.3f} bits per byte"
    if "accuracy" in metrics:
      line += f"  accuracy {metrics['accuracy']:.1%}"
    self.say(line)
    # The next speed is that of training alone: from here, not from the line before.
    self._step, self._time = step, time.perf_counter()

  def say(self, line: str) -> None:
    """Prints a line above the moving one."""
    if self._writes:
      self._end_line()
      print(line, flush=True)

  def _record(self, step, split, values):
    if not self._writes:
      return
    if self.bits_per_byte:
      values = values | {"bits_per_byte": values["loss"] / math.log(2)}
    self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(f"{split}/{name}", value, step)

  def _show(self, line):
    if not self._writes:
      return
    if not sys.stdout.isatty():
      print(line, flush=True)
      return
    blank = " " * max(len(self._shown) - len(line), 0)
    print(f"\r{line}{blank}", end="", flush=True)
    self._shown = line

  def _end_line(self):
    if self._shown:
      print(flush=True)
      self._shown = ""


def read_metrics(path: str | os.PathLike) -> list[dict]:
  """The lines of a `metrics.jsonl` but for a torn last one; none if it is not there."""
  lines = []
  if pathlib.Path(path).exists():
    for line in pathlib.Path(path).read_text().splitlines():
      try:
        lines.append(json.loads(line))
      except json.JSONDecodeError:
        break
  return lines


def draw_curves(metrics: str | os.PathLike, picture: str | os.PathLike) -> None:
  """Draws loss, accuracy if there is one, learning rate and gradient norm, as a PNG.

  Args:
    metrics: A `metrics.jsonl`. Nothing is drawn before its first line of training.
    picture: The file to write.
  """
  from matplotlib.figure import Figure  # Not pyplot: a notebook's backend stays.

  lines = read_metrics(metrics)
  train = [m for m in lines if m["split"] == "train"]
  held_out = [m for m in lines if m["split"] == "held_out"]
  if not train:
    return
  bits = "bits_per_byte" in train[0]
  quantity = "bits_per_byte" if bits else "loss"
  panels = [(quantity, "Loss", "bits per byte" if bits else "loss (nats)")]
  if "accuracy" in train[0]:
    panels.append(("accuracy", "Accuracy", "share of targets"))
  panels.append(("learning_rate", "Learning rate", "learning rate"))
  panels.append(("grad_norm", "Gradient", "global norm, before clipping"))
  figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
  axes = figure.subplots(1, len(panels))
  for axis, (name, title, label) in zip(axes, panels):
    axis.plot([m["step"] for m in train], [m[name] for m in train], label="training")
    points = [(m["step"], m[name]) for m in held_out if name in m]
    if points:
      axis.plot(*zip(*points), "o-", label="held out")
      axis.legend(frameon=False)
    axis.set(title=title, xlabel="step", ylabel=label)
    axis.spines[["top", "right"]].set_visible(False)
  axes[-1].set_yscale("log")
  figure.savefig(picture, dpi=120)
