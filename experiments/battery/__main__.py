r"""What each mixer can do: every task, seeds and learning rates together, one report.

  python -m experiments.battery --mixers=gla,mamba,gated_delta_net,attention,lstm \
    --workdir=runs/battery                                     # minutes on a CPU
  python -m experiments.battery --mixers=all --size=paper --workdir=runs/paper

The same line again goes on where it was killed; cells that failed stay failed but with
--retry_failed. The results are in results.csv, and report.html shows them without a
network. On several devices, start a process on each with --shard=0/4 to --shard=3/4 and
one --workdir, and then once with --report_only.
"""

import re
import time
from collections.abc import Sequence

import jax
from absl import flags

from experiments import cli
from experiments.battery import cells, report, sizes, table
from jaxseq import registry, tasks

MIXERS = flags.DEFINE_list("mixers", None, "Names in the registry, or all.")
TASKS = flags.DEFINE_list(
  "tasks", None, "Names of tasks, or all; by default the size's."
)
SIZE = flags.DEFINE_enum("size", "smallest", list(sizes.SIZES), "Of models and runs.")
SHARD = flags.DEFINE_string("shard", "0/1", "i/n: every n-th mixer, from the i-th on.")
RETRY_FAILED = flags.DEFINE_bool("retry_failed", False, "Run failed cells again.")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Run nothing.")


def main() -> None:
  if not cli.WORKDIR.value:
    raise cli.UsageError("battery needs --workdir=FOLDER")
  if not (MIXERS.value or REPORT_ONLY.value):
    raise cli.UsageError("battery needs --mixers=NAME,NAME or --mixers=all")
  results = table.Table(cli.WORKDIR.value)
  if not REPORT_ONLY.value:
    with cli.usage_errors():
      size = sizes.SIZES[SIZE.value]
      todo = plan(size, MIXERS.value, TASKS.value or size.tasks, SHARD.value)
      left = unfinished(todo, results, RETRY_FAILED.value)
    run(left, results)
  rows = results.rows()
  if not rows:
    raise cli.UsageError(f"there is no cell in {results.workdir / 'cells'}")
  table.write_csv(results.workdir / "results.csv", rows)
  page = results.workdir / "report.html"
  page.write_text(report.page(rows, results.settings()))
  print(f"{results.workdir / 'results.csv'}\n{page}")


def plan(
  size: sizes.Size, mixers: Sequence[str], names: Sequence[str], shard: str = "0/1"
) -> list[cells.Cell]:
  """The cells of a battery, mixer by mixer, checked without compiling anything.

  Args:
    size: Of all of them.
    mixers: Names in the registry, or "all".
    names: Of tasks, or "all".
    shard: "i/n" takes every n-th mixer from the i-th on.

  Raises:
    ValueError: If a name is unknown, a task does not fit the size, or there is no cell.
  """
  numbers = re.fullmatch(r"(\d+)/(\d+)", shard)
  first, count = map(int, numbers.groups()) if numbers else (0, 0)
  if first >= count:
    raise ValueError(f"shard must be i/n with i < n; got {shard}")
  mixers = list(registry.MIXERS) if list(mixers) == ["all"] else list(mixers)
  names = list(tasks.TASKS) if list(names) == ["all"] else list(names)
  for name in names:
    sizes.check(size, name)
  found = [
    cells.Cell(mixer, name, size)
    for mixer in mixers[first::count]
    for name in names
    if cells.is_cell(mixer, name)
  ]
  if not found:
    raise ValueError(
      f"{', '.join(mixers)} see the tokens to come and can be asked for classes alone; "
      f"got the tasks {', '.join(names)}"
    )
  return found


def unfinished(
  todo: list[cells.Cell], results: table.Table, retry_failed: bool = False
) -> list[cells.Cell]:
  """The cells that are not there yet, and if asked for, those that failed.

  Raises:
    ValueError: If one is there with other settings.
  """
  left = []
  for cell in todo:
    found = results.read(cell)
    if found is None or retry_failed and found["rows"][0]["status"] != "done":
      left.append(cell)
  if len(left) < len(todo):
    print(f"{len(todo) - len(left)} of {len(todo)} cells are there already")
  return left


def run(todo: list[cells.Cell], results: table.Table) -> None:
  """Runs cells and writes them down; one that fails stops no other."""
  data, programs, mixer = cells.Programs(), None, None
  start = time.perf_counter()
  for n, cell in enumerate(todo, 1):
    if cell.mixer != mixer:  # The programs of one mixer at a time, to spare memory.
      mixer, programs = cell.mixer, cells.Programs()
      jax.clear_caches()
    began = time.perf_counter()
    try:
      rows = cells.run(cell, data, programs)
    except Exception as error:  # A result, which is written down.
      rows = [cells.failed(cell, error)]
    now = time.perf_counter()
    results.write(cell, rows, now - began)
    eta = (now - start) / n * (len(todo) - n)
    print(
      f"[{n}/{len(todo)}] {cell.name:<18} {cell.task:<18} {report.line(rows):<44}"
      f"{now - began:5.0f} s  eta {eta / 60:.0f} min",
      flush=True,
    )


if __name__ == "__main__":
  cli.run(main)
