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
import sys
import time

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
  results = table.Table(cli.WORKDIR.value)
  with cli.usage_errors():
    if not REPORT_ONLY.value:
      run(plan(sizes.SIZES[SIZE.value]), results)
  rows = results.rows()
  if not rows:
    raise cli.UsageError(f"there is no finished cell in {results.workdir / 'cells'}")
  table.write_csv(results.workdir / "results.csv", rows)
  page = results.workdir / "report.html"
  command = "python -m experiments.battery " + " ".join(sys.argv[1:])
  page.write_text(report.page(rows, command=command, settings=results.settings()))
  print(f"{results.workdir / 'results.csv'}\n{page}")


def plan(size: sizes.Size) -> list[cells.Cell]:
  """The cells to run, mixer by mixer. What the flags name is checked here, uncompiled.

  Raises:
    ValueError: If a name is unknown, or a task does not fit the size.
  """
  if not MIXERS.value:
    raise cli.UsageError("battery needs --mixers=NAME,NAME or --mixers=all")
  mixers = list(registry.MIXERS) if MIXERS.value == ["all"] else MIXERS.value
  names = TASKS.value or size.tasks
  names = list(tasks.TASKS) if names == ["all"] else names
  for name in mixers:
    registry.entry(name)
  for name in names:
    sizes.check(size, name)
  numbers = re.fullmatch(r"(\d+)/(\d+)", SHARD.value)
  shard, count = map(int, numbers.groups()) if numbers else (1, 1)
  if shard >= count:
    raise cli.UsageError(f"--shard must be i/n with i < n; got {SHARD.value}")
  return [
    cells.Cell(mixer, name, size)
    for mixer in mixers[shard::count]
    for name in names
    if cells.is_cell(mixer, name)
  ]


def run(todo: list[cells.Cell], results: table.Table) -> None:
  """Runs the cells that are not there yet; one that fails stops no other."""
  found = [(cell, results.read(cell)) for cell in todo]  # All are checked first.
  failed = lambda rows: rows[0]["status"] != "done"
  left = [
    cell
    for cell, old in found
    if old is None or RETRY_FAILED.value and failed(old["rows"])
  ]
  if len(left) < len(todo):
    print(f"{len(todo) - len(left)} of {len(todo)} cells are there already")
  data, programs, mixer, start = cells.Programs(), None, None, time.perf_counter()
  for n, cell in enumerate(left, 1):
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
    eta = (now - start) / n * (len(left) - n)
    print(
      f"[{n}/{len(left)}] {cell.name:<18} {cell.task:<18} {report.line(rows):<52}"
      f"{now - began:5.0f} s  eta {eta / 60:.0f} min",
      flush=True,
    )


if __name__ == "__main__":
  cli.run(main)
