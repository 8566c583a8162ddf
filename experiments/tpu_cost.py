r"""What the TPU compiler says the recurrences cost, without a TPU: no timings.

  python -m experiments.tpu_cost                               # needs libtpu alone
  python -m experiments.tpu_cost --ops=dplr --chips=v5e,v6e,tpu7x
  python -m experiments.tpu_cost --ops=short_conv --forms=pallas_tpu,parallel
  python -m experiments.tpu_cost --peers=deltanet_tpu,tokamax --save=runs/tpu_cost.json

libtpu compiles each form for one device of the chip, forward, and forward and backward
together. A row is an op, a shape, a chip and who computes it, and each pair in it is
these two passes. "Cycles" are those of the compiler's own simulation; "HBM floor" those
in which the HBM moves the fewest bytes that the pass can do with; "ms" is the larger
of both at the chip's clock, and "ratio" that by the first row's, above 1 where it is
slower than the first. What does not compile, and what is not simulated, says why.

Every pass is compiled at its own size, which says whether it compiles. As simulating is
slow, it is simulated on one row, at most `TOKENS` tokens and `HEADS` heads (`XLA_HEADS`
of a form without kernels); cycles of XLA's operations are multiplied by how many times
more rows x heads x tokens there are. Those of Mosaic kernels, which have a start, go on
from half as many tokens in a straight line, which is by the number of their programs:
each must do equal work. (`short_conv`, whose programs are as long as the row, goes on
from half as many channels.) Cycles are added up over the program, those in a loop as
often as it runs; copies that run beside the rest count nothing.

The simulation aborts on some instructions. If on a kernel's, or if it says 0 cycles,
the pass has no figure. An operation of XLA's then counts with the estimate by which XLA
chose its tiles. "XLA's guess" is the sum of these estimates alone, of all but kernels,
at the size itself: it sees what the small size hides, that less fits in VMEM, but is up
to four times too high.

How far to trust them. The simulation was 0.96 to 1.04 of the time measured for products
of matrices and flash attention on a v5e, 0.80 to 0.90 for delta-rule kernels on a v6e,
and within 40% where the latency of copies decides; whole programs of XLA's are within
35% at best, and scaled ones within a factor of two. It lets copies that run at a time
each have all of the HBM, hence the floor. So: good for one kernel before and after a
change, and optimistic by 20% as a time; least certain for tpu7x.

Peers, if they can be imported: `deltanet_tpu`, and the Kimi delta attention of
`tokamax`, each in the layout it takes, with its defaults.
"""

import concurrent.futures
import dataclasses
import functools
import importlib
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
from absl import flags

from experiments import bench_kernels, cli
from jaxseq import ops

PEERS_KNOWN = ("deltanet_tpu", "tokamax")
# The other flags are those of bench_kernels.
CHIPS = flags.DEFINE_list("chips", ["v5e", "v6e"], "Of v5e, v5p, v6e, tpu7x.")
flags.set_default(bench_kernels.FORMS, ["pallas_tpu", "chunked"])
flags.set_default(bench_kernels.SHAPES, ["B4T4096H16D128", "B4T4096H16K64V128"])
UNUSED = ("documents", "stateful", "calls", "repeats")

# At most, of a simulation: a million cycles take 30 s, 3 GB.
TOKENS = 1024
HEADS, XLA_HEADS = 8, 4  # As many as a program of a kernel; no more than must be.
SECONDS = 600  # Of one compilation.
PASSES = ("forward", "both")
DELTANET = {  # By our op, its function there.
  "scalar_decay": "chunk_gla",
  "diagonal_decay": "chunk_gla",
  "delta_rule": "chunk_delta_rule",
  "gated_delta_rule": "chunk_gdn",
  "channel_delta_rule": "chunk_kda",
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """One JAX device: a chip, of tpu7x one of the two cores of a chip.

  Attributes:
    topology: The smallest that libtpu compiles for.
    clock: Cycles a second.
    bandwidth: Bytes a second, of the HBM.
  """

  topology: str
  clock: float
  bandwidth: float


CHIPS_KNOWN = {
  "v5e": Chip("v5e:2x2", 1.5e9, 819e9),
  "v5p": Chip("v5p:2x2x1", 1.75e9, 2765e9),
  "v6e": Chip("v6e:2x2", 1.75e9, 1640e9),
  "tpu7x": Chip("tpu7x:2x2x1", 2.2e9, 3690e9),
}


def main() -> None:
  with cli.usage_errors():
    shapes = {name: bench_kernels.parse(name) for name in bench_kernels.SHAPES.value}
    forms, peers = bench_kernels.FORMS.value, bench_kernels.PEERS.value
    names = checked(bench_kernels.OPS.value, forms, peers, CHIPS.value)
  print(f"jax {jax.__version__}, {bench_kernels.DTYPE.value}. These are figures of the")
  print(
    "TPU compiler's static model, not timings: some 20% optimistic for kernels, up to"
  )
  print("twice off for what XLA compiles. Pairs: forward / forward and backward.")
  head = f"{'op':<19} {'shape':<17} {'chip':<5} {'by':<12} {'cycles':>25}"
  print(f"{head} {'HBM floor':>21} {'ms':>15}  {'ratio':<11}  XLA's guess")
  able = [peer for peer in peers if _importable(peer)]
  todo = [
    (op, shape, chip, [*forms, *(peer for peer in able if takes(peer, op))])
    for shape in shapes
    for op in names
    for chip in CHIPS.value
  ]
  rows = []
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    started = [
      {
        who: [pool.submit(cost, op, who, shapes[shape], chip, p) for p in PASSES]
        for who in contenders
      }
      for op, shape, chip, contenders in todo
    ]
    for (op, shape, chip, _), found in zip(todo, started):
      figures = {who: [f.result() for f in both] for who, both in found.items()}
      rows += compare(op, shape, chip, floors(op, shapes[shape], chip), figures)
      if bench_kernels.SAVE.value:
        pathlib.Path(bench_kernels.SAVE.value).write_text(json.dumps(rows, indent=1))


def checked(names, forms, peers, chips) -> list[str]:
  """The ops to compile; by default all that have the forms.

  Raises:
    ValueError: If there is no such op, form, peer or chip.
  """
  cli.check_known("op", names or (), bench_kernels.OPS_KNOWN)
  cli.check_known("peer", peers, PEERS_KNOWN)
  cli.check_known("chip", chips, CHIPS_KNOWN)
  for flag in UNUSED:
    if flags.FLAGS[flag].present:
      raise ValueError(f"tpu_cost has no use for --{flag}")
  of = {
    op: inspect.getmodule(getattr(ops, op)).IMPLEMENTATIONS
    for op in bench_kernels.OPS_KNOWN
  }
  lacking = {op: sorted(set(forms) - set(of[op])) for op in names or of}
  able = [op for op, lacks in lacking.items() if not lacks]
  if able and not names:
    return able
  for op, lacks in lacking.items():
    if lacks:
      raise ValueError(
        f"{op} has no form {', '.join(lacks)}; it has {', '.join(of[op])}"
      )
  return able


def floors(op, sizes, chip) -> list[float]:
  """Cycles in which the HBM moves the fewest bytes: forward, and both passes.

  Both read the inputs and write the outputs once; backward reads the inputs and the
  outputs' gradients once more, and writes the inputs' gradients.
  """
  size = lambda x: x.size * x.dtype.itemsize
  args = jax.eval_shape(lambda: bench_kernels.example(op, sizes))
  arrays, outputs = sum(map(size, args)), size(bench_kernels.like_output(op, args))
  known = CHIPS_KNOWN[chip]
  moved = (arrays + outputs, 3 * arrays + 2 * outputs)
  return [bytes_ / known.bandwidth * known.clock for bytes_ in moved]


def compare(op, shape, chip, floor, figures) -> list[dict]:
  """Prints the rows of one op, shape and chip, and returns them."""
  rows, first = [], None
  for who, both in figures.items():
    cycles = [figure.get("cycles") for figure in both]
    row = dict(op=op, shape=shape, chip=chip, by=who, cycles=cycles, floor=floor)
    clock = CHIPS_KNOWN[chip].clock
    row["ms"] = [c and max(c, f) / clock * 1e3 for c, f in zip(cycles, floor)]
    first = first or row["ms"]
    row["ratio"] = [m / f if m and f else None for m, f in zip(row["ms"], first)]
    row["guess"] = [figure.get("guess") for figure in both]
    row["why"] = list(dict.fromkeys(f["why"] for f in both if "why" in f))
    rows.append(row)
    line = f"{op:<19} {shape:<17} {chip:<5} {who:<12} {_pair(cycles, ',.0f'):>25}"
    line += f" {_pair(floor, ',.0f'):>21} {_pair(row['ms'], '.3f'):>15}"
    line += f"  {_pair(row['ratio'], '.2f'):<11}  {_pair(row['guess'], ',.0f')}"
    print("  ".join([line, *row["why"]]), flush=True)
  return rows


def cost(op, who, sizes, chip, which) -> dict:
  """Of one pass: `cycles`, XLA's `guess`, and `why` if there is something to say."""
  job = dict(op=op, who=who, chip=chip, which=which, dtype=bench_kernels.DTYPE.value)
  whole = _in_child(job | dict(sizes=sizes))
  if "guess" not in whole:
    return dict(why=f"does not compile: {whole['why']}")
  B, T, H, K, V = sizes
  by_kernel = who in PEERS_KNOWN or who.startswith("pallas")
  T_few, H_few = min(T, TOKENS), min(H, HEADS if by_kernel else XLA_HEADS)
  T_half, H_half = T_few // 2, H_few
  if op == "short_conv" and by_kernel:
    T_few, T_half, H_half = T, T, H_few // 2
  part = simulate(job | dict(sizes=(1, T_few, H_few, K, V)))
  found = dict(guess=whole["guess"])
  if "why" in part:
    found["why"] = part["why"]
  if "kernels" not in part:
    return found
  times = B * T * H / (T_few * H_few)
  found["cycles"] = part["xla"] * times + part["kernels"]
  if part["kernels"]:
    half = simulate(job | dict(sizes=(1, T_half, H_half, K, V)))
    if "kernels" not in half:
      return found | half
    more = part["kernels"] - half["kernels"]  # Of half the work, without the start.
    found["cycles"] += (times - 1) * 2 * more
  return found


def simulate(job) -> dict:
  """Cycles of a pass's `kernels`, and of all else, `xla`, and `why` not all were."""
  skip = {}
  while True:
    with tempfile.TemporaryDirectory() as folder:
      part = _in_child(job, folder, skip)
      by_kernel = simulated(folder)
    if part.get("aborts") in (None, *skip):
      break
    skip[part["aborts"]] = part["why"]
  if "guess" not in part:
    return dict(why=f"not simulated: {part['why']}")
  lacking = [name for name in part["kernels"] if not by_kernel.get(name)]
  if lacking:  # Some, such as of kernels with copies of their own, are 0.
    why = skip.get(lacking[0], f"libtpu has no cycles of {', '.join(lacking)}")
    return dict(why=f"not simulated: {why}")
  kernels = sum(by_kernel[k] * times for k, times in part["kernels"].items())
  why = dict(why=f"not simulated: {len(skip)} of XLA's operations") if skip else {}
  return dict(kernels=kernels, xla=part["xla"]) | why


def _in_child(job, profile=None, skip=()) -> dict:
  """What `child` prints, or `why` it died, and which instruction `aborts` libtpu.

  Libtpu reads its flags once, when it loads.
  """
  options = "--xla_tpu_check_llo_types=false"  # Else v6e aborts on bfloat16.
  if profile:
    options += f" --xla_jf_dump_static_llo_profile_to={profile}"
  if skip:
    names = ";".join(f"{name}=false" for name in skip)
    options += f" --xla_jf_dump_only_matching_hlo=true;{names}"
  env = os.environ | cli.NO_TPU | dict(JAX_PLATFORMS="cpu", LIBTPU_INIT_ARGS=options)
  env["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # What it answers is not simulated.
  start = "from experiments import tpu_cost; tpu_cost.child()"
  command = [sys.executable, "-c", start, json.dumps(job)]
  try:
    done = subprocess.run(
      command, env=env, capture_output=True, text=True, timeout=SECONDS
    )
  except subprocess.TimeoutExpired:
    return dict(why=f"it takes more than {SECONDS} s")
  if done.returncode == 0:
    return json.loads(done.stdout.splitlines()[-1])
  told = re.search(r"profiling of (\S+) failed: [^\n]*", done.stderr)
  if told is None:
    return dict(why=_short(done.stderr[-200:]) or f"exit code {done.returncode}")
  return dict(why=_short(told[0]), aborts=told[1])


def child() -> None:
  """Compiles the pass that the command line describes, and prints what it is of.

  That is how often each kernel runs, cycles of all else as simulated, where it is, and
  XLA's guess of these; or `why` it does not compile.
  """
  job = json.loads(sys.argv[1])
  flags.FLAGS([sys.argv[0], f"--dtype={job['dtype']}"])
  try:
    run, args = call(job["op"], job["who"], job["sizes"])
    if job["which"] == "both":
      like = bench_kernels.like_output(job["op"], args)
      run, args = with_backward(run), (like, *args)
    program = compiled(CHIPS_KNOWN[job["chip"]].topology, run, *args).as_text()
  except Exception as error:  # A finding, not a failure of this script.
    print(json.dumps(dict(why=_short(f"{type(error).__name__}: {error}"))))
    return
  kernels, xla, guess = {}, 0, 0
  for name, line, times in walk(program):
    figures = dict(re.findall(r'"(\w+)":{[^{}]*"estimated_cycles":"(\d+)"', line))
    if '"tpu_custom_call"' in line:
      kernels[name] = kernels.get(name, 0) + times
    elif figures:
      guessed = figures.get("window_config", 0)
      xla += int(figures.get("bundle_analysis_data", guessed)) * times
      guess += int(guessed) * times
  print(json.dumps(dict(kernels=kernels, xla=xla, guess=guess)))


def compiled(topology, run, *args):
  """`run` compiled for one device of a topology, from the arguments' shapes."""
  from jax.experimental import topologies

  described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  mesh = jax.sharding.Mesh(described.devices[:1], ("device",))
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  args = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in args]
  with jax.set_mesh(mesh), mock.patch.object(jax, "default_backend", lambda: "tpu"):
    return jax.jit(run).lower(*args).compile()


def with_backward(run):
  def both(do, *args):
    o, pullback = jax.vjp(run, *args)
    return o, pullback(do)

  return both


def walk(program: str):
  """Each instruction that runs: its name, its line, and how often it runs.

  Those within a fusion are not listed; of a conditional's branches all are.
  """
  computations, entry = {}, None
  for line in program.splitlines():
    if head := re.match(r"(ENTRY )?%?(\S+) .*{$", line):
      lines = computations.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif line.startswith(" "):
      lines.append(line)

  def within(name, times):
    for line in computations[name]:
      called = re.findall(r"(?:body|to_apply|branch_computations)=({[^}]*}|%\S+)", line)
      if " while(" in line:
        times_inside = times * _trips(computations, line)
      elif re.search(r" (call|conditional)\(", line):
        times_inside = times
      else:
        yield re.search(r"%(\S+) =", line)[1], line, times
        continue
      for inner in re.findall(r"%([\w.\-]+)", " ".join(called)):
        yield from within(inner, times_inside)

  yield from within(entry, 1)


def _trips(computations, line) -> int:
  """Of a `while`: XLA's count, or the constant that its condition compares with."""
  if known := re.search(r'"known_trip_count":{"n":"(\d+)"', line):
    return int(known[1])
  condition = computations[re.search(r"condition=%([\w.\-]+)", line)[1]]
  (bound,) = re.findall(r" constant\((\d+)\)", "\n".join(condition))
  return int(bound)


def simulated(folder) -> dict[str, int]:
  """Cycles by kernel, of the profiles that libtpu has left in a folder."""
  texts = [file.read_text() for file in pathlib.Path(folder).glob("*.textproto")]
  field = lambda pattern, text: re.search(pattern, text)[1]
  return {
    field(r'hlo_op_name: "([^"]+)"', text): int(field(r"estimated_cycles: (\d+)", text))
    for text in texts
  }


def call(op, who, sizes):
  """The function of a form or a peer, and the shapes of its arguments."""
  args = jax.eval_shape(lambda: bench_kernels.example(op, sizes))
  if who == "deltanet_tpu":
    return getattr(importlib.import_module(who), DELTANET[op]), args
  if who == "tokamax":
    theirs = importlib.import_module("tokamax._src.ops.kda.api").kimi_delta_attention
    flags.FLAGS.tokamax_cross_compile = True  # Or it looks for a TPU.
    by_head = lambda x: jnp.moveaxis(x, 2, 0)
    args = jax.eval_shape(lambda *args: tuple(map(by_head, args)), *args)
    return lambda *args: theirs(*args, implementation="mosaic")[0], args
  run = functools.partial(getattr(ops, op), implementation=who)
  if op == "short_conv":
    run = functools.partial(run, activation="silu")
  return lambda *args: run(*args)[0], args


def takes(peer, op) -> bool:
  return op in (DELTANET if peer == "deltanet_tpu" else ("channel_delta_rule",))


def _importable(peer) -> bool:
  try:
    importlib.import_module(peer)
  except ImportError as error:
    print(f"{peer} cannot: {_short(str(error))}")
    return False
  return True


def _pair(figures, form) -> str:
  return " / ".join("-" if x is None else format(x, form) for x in figures)


def _short(text) -> str:
  return " ".join(text.split())[:160]


if __name__ == "__main__":
  cli.run(main)
