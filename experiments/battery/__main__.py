r"""What each mixer can do: every task, seeds and learning rates together, one report.

  python -m experiments.battery --mixers=gla,mamba,gated_delta_net,attention,lstm \
    --workdir=runs/battery                                     # minutes on a CPU
  python -m experiments.battery --mixers=all --size=paper --workdir=runs/paper
  python -m experiments.battery --claims=all --size=small --workdir=runs/paper

The same line again goes on where it was killed; cells that failed stay failed but with
--retry_failed. The results are in results.csv, and report.html shows them without a
network. On several devices, start a process on each with --shard=0/4 to --shard=3/4 and
one --workdir, and then once with --report_only.
"""

import pathlib
import re
import time
from collections.abc import Sequence

import jax
from absl import flags

from experiments import cli
from experiments.battery import cells, claims, outcomes, report, sizes, table
from jaxseq import registry, tasks

MIXERS = flags.DEFINE_list("mixers", None, "Names in the registry, or all.")
TASKS = flags.DEFINE_list(
  "tasks", None, "Names of tasks, or all; by default the size's."
)
SIZE = flags.DEFINE_enum("size", "smallest", list(sizes.SIZES), "Of models and runs.")
CLAIMS = flags.DEFINE_list("claims", None, "Claims of papers to reproduce, or all.")
SHARD = flags.DEFINE_string("shard", "0/1", "i/n: every n-th mixer, from the i-th on.")
RETRY_FAILED = flags.DEFINE_bool("retry_failed", False, "Run failed cells again.")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Run nothing.")


def main() -> None:
  if not cli.WORKDIR.value:
    raise cli.UsageError("battery needs --workdir=FOLDER")
  if not (MIXERS.value or CLAIMS.value or REPORT_ONLY.value):
    raise cli.UsageError("battery needs --mixers=NAME,NAME or all, or --claims")
  results = table.Table(cli.WORKDIR.value)
  if not REPORT_ONLY.value:
    size, left = sizes.SIZES[SIZE.value], []
    with cli.usage_errors():
      if MIXERS.value:
        todo = plan(size, MIXERS.value, TASKS.value or size.tasks, SHARD.value)
        left = unfinished(todo, results, RETRY_FAILED.value)
      claimed = plan_claims(
        size, CLAIMS.value or (), results.workdir, RETRY_FAILED.value
      )
    run(left, results)
    for claim, left in claimed:
      run_claim(claim, left, results.workdir)
  rows, judged = results.rows(), outcomes.read(results.workdir)
  if not (rows or judged):
    raise cli.UsageError(f"there is no cell in {results.workdir / 'cells'}")
  written = [results.workdir / "report.html"]
  if rows:
    written.append(results.workdir / "results.csv")
    table.write_csv(written[-1], rows)
  if judged:
    written.append(results.workdir / "claims.csv")
    outcomes.write_csv(written[-1], judged)
  settings = results.settings() if rows else None
  written[0].write_text(report.page(rows, settings, judged))
  print(*written, sep="\n")


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


def plan_claims(
  size: sizes.Size,
  names: Sequence[str],
  workdir: pathlib.Path,
  retry_failed: bool = False,
) -> list[tuple[claims.Claim, list[cells.Cell]]]:
  """The claims of these names, or "all", each with the cells that are not there yet.

  Raises:
    ValueError: If a name is unknown, a cell does not fit, or is there with other
      settings.
  """
  names = list(claims.CLAIMS) if list(names) == ["all"] else names
  found = [claims.claim(name, size) for name in names]
  left = lambda claim: unfinished(
    list(claim.cells), outcomes.results(workdir, claim.name), retry_failed
  )
  return [(claim, left(claim)) for claim in found]


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


def run_claim(
  claim: claims.Claim, left: list[cells.Cell], workdir: pathlib.Path
) -> None:
  """Runs the cells of a claim that are left; prints what became of it."""
  results = outcomes.results(workdir, claim.name)
  run(left, results)
  outcome = outcomes.judge(claim, results.rows())
  outcomes.write(workdir, outcome)
  print(outcomes.line(outcome), flush=True)


if __name__ == "__main__":
  cli.run(main)
