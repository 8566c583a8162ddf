r"""Writes the README's table of mixers from the registry.

python -m experiments.readme_table
"""

import pathlib

from jaxseq import registry

__all__ = ["README", "table", "updated"]

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- mixers: begin -->", "<!-- mixers: end -->"


def table() -> str:
  """A row for each mixer, in Markdown."""
  rows = ["| name | paper | op | state |", "| --- | --- | --- | --- |"]
  for name, entry in sorted(registry.MIXERS.items()):
    paper = f"{entry.paper.title} ({entry.paper.year})"
    if entry.paper.arxiv:
      paper = f"[{paper}](https://arxiv.org/abs/{entry.paper.arxiv})"
    rows.append(f"| `{name}` | {paper} | `ops.{entry.op}` | {entry.state} |")
  return "\n".join(rows)


def updated(text: str) -> str:
  """The README with the table of today between its marks."""
  before, _, rest = text.partition(BEGIN)
  _, _, after = rest.partition(END)
  return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
  README.write_text(updated(README.read_text()))
