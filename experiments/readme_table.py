r"""Writes the README's tables of mixers from the registry.

python -m experiments.readme_table
"""

import importlib
import pathlib

from jaxseq import registry

__all__ = ["README", "table", "updated"]

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- mixers: begin -->", "<!-- mixers: end -->"


def table() -> str:
  """A table for each family, in Markdown."""
  return "\n\n".join(map(_family, registry.FAMILIES))


def _family(name: str) -> str:
  family = importlib.import_module(f"jaxseq.modules.{name}")
  about = family.__doc__.strip().removesuffix(".")
  rows = [
    f"**{name}**: {about[0].lower()}{about[1:]}.",
    "",
    "| name | paper | op | state |",
    "| --- | --- | --- | --- |",
  ]
  for entry in sorted(family.MIXERS, key=lambda entry: entry.name):
    paper = f"{entry.paper.title} ({entry.paper.year})"
    if entry.paper.arxiv:
      paper = f"[{paper}](https://arxiv.org/abs/{entry.paper.arxiv})"
    state = entry.state if entry.causal else "both directions"
    rows.append(f"| `{entry.name}` | {paper} | `ops.{entry.op}` | {state} |")
  return "\n".join(rows)


def updated(text: str) -> str:
  """The README with the table of today between its marks."""
  before, _, rest = text.partition(BEGIN)
  _, _, after = rest.partition(END)
  return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
  README.write_text(updated(README.read_text()))
