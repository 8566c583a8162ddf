"""The pictures of a battery, from the rows of its table."""

import collections
import math
import statistics

import matplotlib
import numpy as np
from matplotlib import colors, patches, ticker
from matplotlib.figure import Figure

from experiments.battery import cells
from jaxseq import registry, tasks

__all__ = [
  "accuracy_against_length",
  "answers",
  "heat_map",
  "overall",
  "recall_against_state",
  "score_against_cost",
  "scores",
  "tasks_in_order",
]

INK, FAINT, FAILED = "#2b2f33", "#b9bec4", "#e9c6bd"
SCALE = colors.LinearSegmentedColormap.from_list(
  "score", ["#fbfaf7", "#cfe0e6", "#7fb0c4", "#2f7a99", "#12455f"]
)
LINES = (
  *("#2f7a99", "#c8553d", "#6a8d3a", "#8c5a9e", "#d39a2d"),
  *("#3d5a80", "#b5648a", "#4f9d8f", "#8a6d4b", "#6c757d"),
)
MANY = 10  # Mixers; of more, only the best have a colour.
STYLE: dict = {
  "font.size": 9,
  "font.family": "sans-serif",
  "text.color": INK,
  "axes.labelcolor": INK,
  "axes.edgecolor": FAINT,
  "xtick.color": INK,
  "ytick.color": INK,
  "svg.fonttype": "none",
}


def answers(rows: list[dict]) -> dict[tuple, dict]:
  """What was measured at the best learning rate, by mixer, task, difficulty, length.

  Each is a row, with the mean over the seeds of its value and score, and "low" and
  "high", the least and largest value.
  """
  groups = collections.defaultdict(list)
  for row in rows:
    if row["status"] == "done" and row["best"]:
      key = row["mixer"], row["task"], row["difficulty"], int(row["length"])
      groups[key].append(row)
  result = {}
  for key, group in groups.items():
    values = [row["value"] for row in group]
    known = [n for n in ("value", "score") if group[0][n] is not None]
    mean = {n: statistics.fmean(r[n] for r in group) for n in known}
    result[key] = group[0] | mean | dict(low=min(values), high=max(values))
  return result


def scores(rows: list[dict]) -> dict[tuple[str, str], float]:
  """By mixer and task: the mean over the task's levels, as they were trained."""
  groups = collections.defaultdict(list)
  for row in answers(rows).values():
    if row["question"] == "trained":
      groups[row["mixer"], row["task"]].append(row["score"])
  return {key: statistics.fmean(group) for key, group in groups.items()}


def overall(rows: list[dict]) -> dict[str, float]:
  """By mixer: the mean over the tasks, none counted below 0; the best first."""
  groups = collections.defaultdict(list)
  for (mixer, _), score in scores(rows).items():
    groups[mixer].append(max(score, 0))
  means = {mixer: statistics.fmean(group) for mixer, group in groups.items()}
  return dict(sorted(means.items(), key=lambda item: -item[1]))


def _mixers(rows) -> list[str]:
  """The causal first, each kind by its mean; then those of which every cell failed."""
  means = overall(rows)
  causal = lambda name: name not in registry.MIXERS or registry.entry(name).causal
  order = lambda name: (not causal(name), -means.get(name, -1), name)
  return sorted({row["mixer"] for row in rows}, key=order)


def tasks_in_order(rows: list[dict]) -> list[tuple[str, str]]:
  """Ability and name of each task, in the library's order."""
  known = list(tasks.TASKS)
  place = lambda name: known.index(name) if name in known else len(known)
  order = lambda pair: (tasks.ABILITIES.index(pair[0]), place(pair[1]), pair[1])
  return sorted({(row["ability"], row["task"]) for row in rows}, key=order)


@matplotlib.rc_context(STYLE)
def heat_map(rows: list[dict]) -> Figure:
  """Scores, mixers x tasks, in hundredths.

  A cell that failed is red with a cross; where a mixer sees the tokens that come, which
  a task does not allow, it is hatched; what was not run is empty.
  """
  score, means = scores(rows), overall(rows)
  mixers, columns = _mixers(rows), tasks_in_order(rows)
  failed = {(r["mixer"], r["task"]) for r in rows if r["status"] != "done"}
  wide, high = 0.46, 0.235  # Inches of a cell.
  size = wide * (len(columns) + 1) + 2.3, high * len(mixers) + 2.0
  figure = Figure(figsize=size)
  axis = figure.add_axes(
    (2.0 / size[0], 0.15 / size[1], 1 - 2.3 / size[0], 1 - 2.0 / size[1])
  )
  for y, mixer in enumerate(mixers):
    for x, (_, task) in enumerate(columns):
      _cell(axis, x, y, score.get((mixer, task)), (mixer, task) in failed, mixer, task)
    if mixer in means:
      text = str(round(100 * means[mixer]))
      axis.text(
        len(columns) + 0.5, y, text, ha="center", va="center", fontweight="bold"
      )
  axis.set_xlim(-0.5, len(columns) + 1)
  axis.set_ylim(len(mixers) - 0.5, -0.5)
  axis.set_yticks(range(len(mixers)), mixers)
  places = [*range(len(columns)), len(columns) + 0.5]
  names = [name.replace("_", " ") for _, name in columns] + ["mean"]
  axis.set_xticks(places, names, rotation=45, ha="left", rotation_mode="anchor")
  axis.xaxis.tick_top()
  axis.tick_params(length=0, pad=4)
  axis.spines[:].set_visible(False)
  _abilities(axis, columns, size[1])
  return figure


def _cell(axis, x, y, score, failed, mixer, task):
  box = lambda **style: axis.add_patch(
    patches.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, lw=0, **style)
  )
  write = lambda text, color: axis.text(
    x, y, text, ha="center", va="center", fontsize=8, color=color
  )
  if score is not None:
    box(color=SCALE(min(max(score, 0), 1)))
    write(str(round(100 * score)), "white" if score > 0.55 else INK)
  elif failed:
    box(color=FAILED)
    write("\N{MULTIPLICATION SIGN}", INK)
  elif mixer in registry.MIXERS and task in tasks.TASKS:
    if not cells.is_cell(mixer, task):
      box(facecolor="white", edgecolor="#dcdfe3", hatch="////")


def _abilities(axis, columns, inches):
  """A line and a name above the tasks of each ability."""
  names = [ability for ability, _ in columns]
  above = axis.get_xaxis_transform()
  top = 1 + 1.55 / (inches - 2.0)
  for ability in dict.fromkeys(names):
    first, count = names.index(ability), names.count(ability)
    axis.plot(
      [first - 0.4, first + count - 0.6],
      [top] * 2,
      color=FAINT,
      lw=1,
      transform=above,
      clip_on=False,
    )
    axis.text(
      *(first - 0.4, top, ability.replace(" ", "\n" if count < 3 else " ")),
      transform=above,
      va="bottom",
      fontsize=7.5,
      style="italic",
    )


def _colors(rows) -> dict[str, str]:
  """Of all mixers if they are few, else of the best."""
  order = list(overall(rows))
  return dict(zip(order[:MANY], LINES))


@matplotlib.rc_context(STYLE)
def accuracy_against_length(rows: list[dict]) -> Figure | None:
  """A panel for each task that was asked at several lengths; bands span the seeds."""
  curves = collections.defaultdict(lambda: collections.defaultdict(list))
  for (mixer, task, difficulty, _), row in answers(rows).items():
    if row["question"] != "harder":
      curves[task, difficulty][mixer].append(row)
  panels = {
    key: by_mixer
    for key, by_mixer in curves.items()
    if any(len(points) > 1 for points in by_mixer.values())
  }
  if not panels:
    return None
  order = [name for _, name in tasks_in_order(rows)]
  panels = dict(sorted(panels.items(), key=lambda item: order.index(item[0][0])))
  columns = min(len(panels), 3)
  lines = -(-len(panels) // columns)
  figure = Figure(figsize=(3.1 * columns, 2.6 * lines + 0.6), layout="constrained")
  axes = figure.subplots(lines, columns, squeeze=False)
  chosen = _colors(rows)
  for axis, ((task, difficulty), by_mixer) in zip(axes.flat, panels.items()):
    for mixer in sorted(by_mixer, key=lambda m: m in chosen):
      _curve(axis, by_mixer[mixer], mixer, chosen.get(mixer))
    one = next(iter(by_mixer.values()))[0]
    axis.axhline(one["chance"], color=FAINT, lw=1, ls=":")
    axis.axvline(one["trained_length"], color=FAINT, lw=1)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(ticker.ScalarFormatter())
    lengths = sorted({p["length"] for points in by_mixer.values() for p in points})
    axis.set_xticks(lengths)
    axis.minorticks_off()
    axis.set_title(f"{task.replace('_', ' ')}, {difficulty}", fontsize=9, loc="left")
    axis.set_xlabel("tokens", fontsize=8)
    axis.set_ylabel(one["metric"].replace("_", " "), fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if one["metric"] == "accuracy":
      axis.set_ylim(0, 1.05)
  for axis in axes.flat[len(panels) :]:
    axis.set_visible(False)
  _legend(figure, chosen)
  return figure


def _curve(axis, points, mixer, color):
  points = sorted(points, key=lambda p: p["length"])
  x = [p["length"] for p in points]
  axis.plot(
    x,
    [p["value"] for p in points],
    color=color or FAINT,
    lw=1.6 if color else 0.6,
    marker="o" if color else None,
    ms=3,
    label=mixer,
    zorder=3 if color else 1,
  )
  if color:
    low, high = ([p[k] for p in points] for k in ("low", "high"))
    axis.fill_between(x, low, high, color=color, alpha=0.13, lw=0)


def _legend(figure, chosen):
  handles = [
    patches.Patch(color=color, label=mixer.replace("_", " "))
    for mixer, color in chosen.items()
  ]
  figure.legend(
    handles=handles,
    loc="outside lower left",
    ncols=5,
    frameon=False,
    fontsize=8,
    handlelength=0.9,
  )


@matplotlib.rc_context(STYLE)
def recall_against_state(rows: list[dict]) -> Figure | None:
  """Mean score of the recall tasks over the bytes of one sequence's state."""
  points = _means(rows, "state_bytes", "recall")
  if not points:
    return None
  figure = Figure(figsize=(7.4, 4.6 + 0.03 * len(points)), layout="constrained")
  axis = figure.subplots()
  grows = lambda name: (
    name in registry.MIXERS and registry.entry(name).state == "growing"
  )
  _scatter(
    axis, points, {name: "^" if grows(name) else "o" for name in points}, _colors(rows)
  )
  axis.set_xlabel("bytes of state a sequence, at the trained length")
  axis.set_ylabel("recall: mean score over its tasks")
  axis.text(
    *(1, 1.02, "\u25b3 state grows with time"),
    transform=axis.transAxes,
    ha="right",
    fontsize=8,
  )
  return figure


@matplotlib.rc_context(STYLE)
def score_against_cost(rows: list[dict]) -> Figure | None:
  """Mean score of all tasks over FLOPs a token, and over tokens a second."""
  axes_of = {
    "flops_per_token": "FLOPs a token, forward",
    "tokens_per_second": "tokens a second in training, all members together",
  }
  points = {column: _means(rows, column) for column in axes_of}
  if not points["flops_per_token"]:
    return None
  high = 4.4 + 0.03 * len(points["flops_per_token"])
  figure = Figure(figsize=(10.5, high), layout="constrained")
  for axis, (column, label) in zip(figure.subplots(1, 2, sharey=True), axes_of.items()):
    _scatter(axis, points[column], dict.fromkeys(points[column], "o"), _colors(rows))
    axis.set_xlabel(label)
  figure.axes[0].set_ylabel("mean score over all tasks")
  return figure


def _means(rows, column, ability=None) -> dict[str, tuple[float, float]]:
  """By mixer: the mean of a column and of the scores, over the tasks of an ability."""
  values, worth = collections.defaultdict(list), collections.defaultdict(list)
  for row in answers(rows).values():
    of = row["question"] == "trained" and ability in (None, row["ability"])
    if of and row[column]:
      values[row["mixer"]].append(row[column])
      worth[row["mixer"]].append(max(row["score"], 0))
  mean = statistics.fmean
  return {name: (mean(values[name]), mean(worth[name])) for name in values}


def _scatter(axis, points, markers, chosen):
  axis.set_xscale("log")
  axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
  axis.xaxis.set_minor_formatter(ticker.NullFormatter())
  axis.set_ylim(-0.03, 1.05)
  x = [p[0] for p in points.values()]
  axis.set_xlim(min(x) / 1.6, max(x) * 2.5)
  axis.grid(axis="y", color="#eceef0", lw=0.8)
  axis.set_axisbelow(True)
  axis.spines[["top", "right"]].set_visible(False)
  for name, point in points.items():
    color = chosen[name] if len(points) <= MANY else LINES[0]
    axis.plot(*point, markers[name], color=color, ms=7, mec="white", mew=0.8)
  _labels(axis, points, 8 if len(points) <= 40 else 6)


def _labels(axis, points, fontsize):
  """Names beside their points, each at the nearest place that is still free."""
  width, height = (s * 72 for s in axis.figure.get_size_inches())
  width /= len(axis.figure.axes)
  (left, right), (low, high) = map(np.log, axis.get_xlim()), axis.get_ylim()
  place = lambda x, y: np.array(
    [(math.log(x) - left) / (right - left) * width, (y - low) / (high - low) * height]
  )
  taken = [(*(place(*p) - 4), *(place(*p) + 4)) for p in points.values()]
  free = lambda a: all(
    a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1] for b in taken
  )
  ways = [
    (side * (6 + 2 * abs(k)), k * (fontsize * 0.6))
    for k in sorted(range(-24, 25), key=abs)
    for side in (1, -1)
  ]
  for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
    at, long = place(*point), 0.56 * fontsize * len(name)
    for dx, dy in ways:
      x = at[0] + dx - (long if dx < 0 else 0)
      box = (x, at[1] + dy - fontsize * 0.6, x + long, at[1] + dy + fontsize * 0.6)
      if free(box) and x > 0 and box[2] < width:
        break
    taken.append(box)
    far = abs(dy) > fontsize
    axis.annotate(
      *(name, point),
      xytext=(dx, dy),
      textcoords="offset points",
      fontsize=fontsize,
      ha="right" if dx < 0 else "left",
      va="center",
      arrowprops=dict(arrowstyle="-", color=FAINT, lw=0.5) if far else None,
    )
