"""The battery's page: one HTML file with everything in it."""

import html
import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from experiments.battery import pictures
from jaxseq import registry, tasks

__all__ = ["line", "page"]

CSS = """
body { font: 15px/1.55 system-ui, "Helvetica Neue", Arial, sans-serif; color: #2b2f33;
  background: #fdfdfc; max-width: 1080px; margin: 3rem auto; padding: 0 1.5rem; }
h1 { font-weight: 600; font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-weight: 600; font-size: 1.15rem; margin-top: 2.8rem; }
p, li { max-width: 46rem; }
.lead, figcaption { color: #69717a; }
figure { margin: 1rem 0; overflow-x: auto; }
svg { max-width: 100%; height: auto; }
.tall svg { max-width: none; }
table { border-collapse: collapse; font-size: .86rem; }
th, td { text-align: left; padding: .22rem 1.1rem .22rem 0; vertical-align: top;
  border-bottom: 1px solid #eceef0; }
th { font-weight: 600; color: #69717a; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: .86em; background: #f2f3f4; padding: .1em .3em; border-radius: 3px; }
.bar { height: .8em; margin-top: .3em; background: #7fb0c4; }
a { color: #2f7a99; text-decoration: none; }
"""


def line(rows: list[dict]) -> str:
  """What came out of a cell, in a few words."""
  if rows[0]["status"] != "done":
    return rows[0]["status"][:90]
  first = [r for r in pictures.answers(rows).values() if r["question"] == "trained"]
  return ", ".join(
    f"{r['metric']} {r['value']:.2f} (chance {r['chance']:.2f}) "
    f"\N{PLUS-MINUS SIGN}{(r['high'] - r['low']) / 2:.2f}"
    for r in first
  )


def page(
  rows: list[dict], settings: dict | None = None, judged: Sequence[dict] = ()
) -> str:
  """The page.

  Args:
    rows: Of `results.csv`.
    settings: What else is to be said of the runs.
    judged: Of claims; see `outcomes.judge`.
  """
  parts = _battery(rows, settings) if rows else []
  body = "\n".join(part for part in [*parts, _claims(judged)] if part)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width">'
    f"<title>The battery</title><style>{CSS}</style></head>\n<body>\n{body}\n"
    "</body></html>\n"
  )


def _battery(rows: list[dict], settings: dict | None) -> list[str]:
  mixers = len({r["mixer"] for r in rows})
  tasks_run = len({r["task"] for r in rows})
  failed = [r for r in rows if r["status"] != "done"]
  return [
    "<h1>What each mixer can do</h1>",
    f'<p class="lead">{mixers} sequence mixers, {tasks_run} tasks. All learning rates '
    "and seeds of a cell are trained together; shown is the mean over the seeds at the "
    "rate that was best on other data. A score of 0 is what the best constant answer "
    "gets, 1 is all right, or the optimum that theory knows.</p>",
    _section(
      "Scores",
      pictures.heat_map(rows),
      "In hundredths, at the trained length. Crosses failed; where it is hatched, the "
      "mixer sees the tokens to come and cannot be asked.",
      tall=True,
    ),
    _section(
      "Longer than trained",
      pictures.accuracy_against_length(rows),
      "The vertical line is the trained length, the dotted one the best constant "
      "answer, bands are the least and largest of the seeds. Of many mixers, the ten "
      "that are best over all have a colour.",
    ),
    _section(
      "Recall and state",
      pictures.recall_against_state(rows),
      "A state that grows with time is counted at the trained length.",
    ),
    _section(
      "Cost",
      pictures.score_against_cost(rows),
      "Operations are counted in the program that ran. Tokens a second are of all "
      "members of a population, forward, backward and update.",
    ),
    _failures(failed),
    _levels(rows),
    _mixers(rows),
    _settings(rows, settings or {}),
  ]


def _claims(judged: Sequence[dict]) -> str:
  """Each with what was measured and which of its conditions hold."""
  if not judged:
    return ""
  held = sum(outcome["outcome"] == "reproduced" for outcome in judged)
  parts = [
    f"<h1>Claims of papers, in miniature</h1>\n"
    f'<p class="lead">{held} of {len(judged)} are reproduced. Thresholds were set '
    "before the runs, but where a note says otherwise; lengths, states and training in "
    "trials. Models and runs are far smaller than the papers', so that a claim not "
    "reproduced is not refuted.</p>"
  ]
  for outcome in judged:
    papers = ", ".join(_paper(paper) for paper in outcome["papers"])
    said = [
      f"{'yes' if holds else '<b>no</b>'}: {html.escape(words)}"
      for words, holds in outcome["conditions"]
    ] + [html.escape(text) for text in (*outcome["failed"], outcome["note"]) if text]
    lines = [
      [
        html.escape(row["mixer"]),
        html.escape(row["difficulty"]),
        f"{row['length']}",
        row["metric"].replace("_", " "),
        f"{row['value']:.3g}",
        f"{row['low']:.3g} to {row['high']:.3g}",
        "" if row["chance"] is None else f"{row['chance']:.3g}",
        "" if row["state_bytes"] is None else f"{row['state_bytes']:,}",
        _bar(row),
      ]
      for row in outcome["numbers"]
    ]
    head = ["mixer", "asked", "length", "metric", "mean", "seeds", "chance"]
    parts.append(
      f"<h2>{outcome['outcome'].capitalize()}: {outcome['claim'].replace('_', ' ')}"
      f"</h2>\n<p>{html.escape(outcome['says'])} ({papers}; size {outcome['size']})</p>"
      f"\n<ul>{''.join(f'<li>{text}</li>' for text in said)}</ul>\n"
      + _table([*head, "state bytes", ""], lines)
    )
  return "\n".join(parts)


def _bar(row: dict) -> str:
  """An accuracy as a length."""
  if row["metric"] != "accuracy":
    return ""
  return f'<div class="bar" style="width: {120 * row["value"]:.0f}px"></div>'


def _section(title: str, figure: Figure | None, caption: str, tall=False) -> str:
  if figure is None:
    return ""
  kind = ' class="tall"' if tall else ""
  return (
    f"<h2>{title}</h2>\n<figure{kind}>{_svg(figure)}"
    f"<figcaption>{caption}</figcaption></figure>"
  )


def _svg(figure: Figure) -> str:
  file = io.StringIO()
  # Text stays text, and the same rows give the same file.
  with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "battery"}):
    figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
  text = file.getvalue()
  return text[text.index("<svg") :]


def _table(head: list[str], lines: list[list]) -> str:
  """Numbers, and only they, stand to the right. Strings are HTML."""

  def cell(x):
    if isinstance(x, str):
      return f"<td>{x}</td>"
    return f'<td class="n">{x:,.{0 if x == round(x) or x >= 1000 else 1}f}</td>'

  top = "".join(f"<th>{name}</th>" for name in head)
  rows = "\n".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in lines)
  return f"<table><tr>{top}</tr>\n{rows}</table>"


def _failures(failed: list[dict]) -> str:
  if not failed:
    return ""
  lines = [
    [r["mixer"], r["task"], html.escape(r["status"].removeprefix("failed: "))]
    for r in failed
  ]
  return f"<h2>Failed cells</h2>\n{_table(['mixer', 'task', 'reason'], lines)}"


def _levels(rows: list[dict]) -> str:
  """The tasks at their levels."""
  levels = {}
  for row in pictures.answers(rows).values():
    key = row["task"], row["difficulty"], row["question"] == "harder"
    levels.setdefault(key, (row, set()))[1].add(int(row["length"]))
  order = [name for _, name in pictures.tasks_in_order(rows)]
  lines = [
    [
      row["ability"],
      task.replace("_", " "),
      difficulty + (" (not trained)" if harder else ""),
      f"{row['trained_length']:.0f}",
      ", ".join(map(str, sorted(lengths))),
      f"{row['metric'].replace('_', ' ')}, {row['chance']:.3g} by chance",
      _paper(tasks.TASKS[task].paper) if task in tasks.TASKS else "",
    ]
    for (task, difficulty, harder), (row, lengths) in sorted(
      levels.items(), key=lambda item: order.index(item[0][0])
    )
  ]
  head = ["ability", "task", "difficulty", "trained at", "asked at", "metric", "paper"]
  return f"<h2>Tasks</h2>\n{_table(head, lines)}"


def _mixers(rows: list[dict]) -> str:
  lines = []
  first = {r["mixer"]: r for r in reversed(rows) if r["status"] == "done"}
  for name, mean in pictures.overall(rows).items():
    row, entry = first[name], registry.MIXERS.get(name)
    paper = ""
    if entry:
      paper = html.escape(f"{entry.paper.title} ({entry.paper.year})")
      if entry.paper.arxiv:
        paper += f", {_paper(entry.paper.arxiv)}"
    size = row["state_bytes"]
    lines.append(
      [
        name,
        100 * mean,
        row["parameters"],
        "none" if size is None else size,
        row["flops_per_token"],
        row["tokens_per_second"],
        paper,
      ]
    )
  head = ["mixer", "mean score", "parameters", "state bytes", "FLOPs a token"]
  return f"<h2>Mixers</h2>\n{_table([*head, 'tokens/s', 'paper'], lines)}"


def _settings(rows: list[dict], settings: dict) -> str:
  text = lambda x: x if isinstance(x, str) else f"{x:g}"
  distinct = lambda name: sorted(
    {text(r[name]) for r in rows if r.get(name) is not None}
  )
  lines = []
  for name in ("device", "dtype", "versions", "learning_rate", "seed"):
    lines.append([name.replace("_", " "), html.escape(", ".join(distinct(name)))])
  lines += [
    [name.replace("_", " "), html.escape(str(x))] for name, x in settings.items()
  ]
  return f"<h2>Settings</h2>\n{_table(['', ''], lines)}"


def _paper(name: str) -> str:
  """An arXiv id as a link, another name of a paper as it is."""
  if not re.fullmatch(r"\d{4}\.\d{4,5}", name):
    return html.escape(name)
  return f'<a href="https://arxiv.org/abs/{name}">arXiv:{name}</a>'
