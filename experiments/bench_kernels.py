r"""Times the recurrences' kernels, beside other libraries' in the same run.

  python -m experiments.bench_kernels                              # all, on this device
  python -m experiments.bench_kernels --ops=scalar_decay --shapes=B8T2048H16D128
  python -m experiments.bench_kernels --peers=jla,fla --save=runs/kernels.json
  python -m experiments.bench_kernels --forms=chunked --peers=jla_plain
  python -m experiments.bench_kernels --ops=short_conv --forms=auto,parallel

A row is an op, a shape and who ran it: median milliseconds of the forward pass, and of
forward and backward together, with the 10% and 90% quantiles, of calls that follow each
other without waiting, ours and the peers' in turn. "Limit" is the share of the
memory's bandwidth, which the same run measures by a copy, that is reached if the
forward pass read its inputs once and the backward pass once more, with the outputs'
gradients, and each result were written once; "ratio" is our time by the fastest peer's,
below 1 where we are faster. What cannot take a call is said.

Peers: `jla` is the kernels of PyPI's jax-linear-attention, `jla_plain` its plain forms,
`fla` flash-linear-attention (torch, Triton; it tunes itself for minutes on first use),
`tfla` xLSTM's mlstm-kernels (likewise), `cudnn` JAX's causal softmax attention, for
scale. D in a shape is K and V. `short_conv` is over H x K channels.
"""

import concurrent.futures
import functools
import json
import re
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import cli
from jaxseq import ops

PEERS_KNOWN = ("jla", "jla_plain", "fla", "tfla", "cudnn")
OPS = flags.DEFINE_list("ops", None, "Ops to time; by default all.")
FORMS = flags.DEFINE_list("forms", ["auto"], "Forms of each.")
SHAPES = flags.DEFINE_list(
  "shapes",
  ["B8T2048H16D128", "B1T32768H16D128", "B8T2048H32D64"],
  "Such as B8T2048H16D128, or with K64V128 for D128.",
)
DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Of q, k, v.")
DOCUMENTS = flags.DEFINE_integer("documents", 0, "Packed in each row, if any.")
STATEFUL = flags.DEFINE_bool("stateful", False, "Whether there is a state before.")
CALLS = flags.DEFINE_integer("calls", 20, "That follow each other in a measurement.")
REPEATS = flags.DEFINE_integer("repeats", 7, "Measurements of each.")
PEERS = flags.DEFINE_list("peers", [], f"Of {', '.join(PEERS_KNOWN)}.")
SAVE = flags.DEFINE_string("save", None, "A file for the rows, JSON.")

# By op, the arrays that follow q, k and v.
GATES = {
  "linear_attention": (),
  "scalar_decay": ("scalar",),
  "diagonal_decay": ("diagonal",),
  "mlstm": ("input", "scalar"),
  "delta_rule": ("beta",),
  "gated_delta_rule": ("scalar", "beta"),
  "channel_delta_rule": ("diagonal", "beta"),
  "dplr": ("a", "b", "diagonal"),
  "signed_scalar_decay": ("signed",),
  "signed_diagonal_decay": ("signed_diagonal",),
}
OPS_KNOWN = (*GATES, "short_conv")
TAPS = 4  # Of short_conv.
JLA = {  # By our op, its name there and its names of the gates.
  "scalar_decay": ("simple_gla", ("g",)),
  "diagonal_decay": ("gla", ("g",)),
  "mlstm": ("mlstm", ("i", "g")),
  "delta_rule": ("deltanet", ("beta",)),
  "gated_delta_rule": ("gated_deltanet", ("g", "beta")),
  "channel_delta_rule": ("kda", ("g", "beta")),
  "dplr": ("rwkv7", ("a", "b", "w")),
}
FLA = {  # By our op, module and function, and its names of the gates.
  "scalar_decay": ("simple_gla", "chunk_simple_gla", ("g",)),
  "diagonal_decay": ("gla", "chunk_gla", ("g",)),
  "delta_rule": ("delta_rule", "chunk_delta_rule", ("beta",)),
  "gated_delta_rule": ("gated_delta_rule", "chunk_gated_delta_rule", ("g", "beta")),
  "channel_delta_rule": ("kda", "chunk_kda", ("g", "beta")),
  "dplr": ("rwkv7", "chunk_rwkv7", ("a", "b", "w")),
}
RWKV7_DECAY = -0.6065306597126334  # The lowest log decay of RWKV-7, -exp(-1/2).


def main() -> None:
  with cli.usage_errors():
    shapes = {name: parse(name) for name in SHAPES.value}
    names = OPS.value or OPS_KNOWN
    cli.check_known("op", names, OPS_KNOWN)
    cli.check_known("peer", PEERS.value, PEERS_KNOWN)
  bandwidth = copy_bandwidth()
  kind = jax.devices()[0].device_kind
  print(
    f"{kind}, jax {jax.__version__}, {DTYPE.value}, copies {bandwidth / 1e12:.2f} TB/s"
  )
  head = f"{'op':<19} {'shape':<16} {'by':<10} {'forward ms':>21}"
  print(f"{head} {'and backward ms':>21}  limit        ratio")
  todo = [
    (name, shape, *contenders(name, sizes))
    for shape, sizes in shapes.items()
    for name in names
  ]
  calls = [call for *_, runs in todo for both in runs.values() for call in both]
  # What cannot be compiled says so when it is called.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    concurrent.futures.wait(
      [pool.submit(call.compile) for call in calls if isinstance(call, Call)]
    )
  rows = []
  for row in todo:
    rows += compare(*row, bandwidth)
    if SAVE.value:
      with open(SAVE.value, "w") as file:
        json.dump(dict(device=kind, bandwidth=bandwidth, rows=rows), file, indent=1)


def like_output(name, args):
  """The argument of the output's shape and dtype."""
  return args[0 if name == "short_conv" else 2]


def fewest_bytes(name, args, options) -> tuple[int, int]:
  """That the forward pass moves, and forward and backward pass together."""
  arrays, outputs = sum(x.nbytes for x in args), like_output(name, args).nbytes
  states = 2 * options["initial_state"].nbytes if "initial_state" in options else 0
  return arrays + outputs + states, 3 * arrays + 2 * outputs + 2 * states


def parse(name: str) -> tuple[int, int, int, int, int]:
  """B, T, H, K and V of a shape's name."""
  sizes = {letter: int(n) for letter, n in re.findall(r"([A-Z])(\d+)", name)}
  if "D" in sizes:
    sizes["K"] = sizes["V"] = sizes.pop("D")
  if sorted(sizes) != sorted("BTHKV"):
    raise cli.UsageError(f"a shape needs B, T, H and D, or K and V; got {name}")
  return tuple(sizes[letter] for letter in "BTHKV")


def contenders(name, sizes):
  """The fewest bytes of an op's passes, and who runs it: two calls each, and a wait."""
  args = example(name, sizes)
  options = {}
  B, T, H, K, V = sizes
  if DOCUMENTS.value:
    ids = jnp.arange(T) * DOCUMENTS.value // T + 1
    options["segment_ids"] = jnp.broadcast_to(ids, (B, T))
  if STATEFUL.value:
    state = (B, TAPS - 1, H * K) if name == "short_conv" else (B, H, K, V)
    options["initial_state"] = jnp.ones(state)
  runs = {
    form: _jitted(name, functools.partial(_ours, name, form, options), args, options)
    for form in FORMS.value
  }
  for peer in PEERS.value:
    made = {"fla": _fla, "tfla": _tfla, "cudnn": _cudnn}
    made = made.get(peer, functools.partial(_jla, peer))
    try:
      run = made(name, args, options)
    except Exception as error:  # A finding, not a failure of this script.
      print(f"{peer} cannot: {_first_line(error)}")
      continue
    if run is not None:
      runs[peer] = run
  return fewest_bytes(name, args, options), runs


def compare(name, shape, moved, runs, bandwidth) -> list[dict]:
  """Times one op at one shape, ours and the peers' in turn, and prints the rows."""
  times = in_turn(runs)
  theirs = [
    min(
      (statistics.median(times[p][i]) for p in PEERS.value if p in times), default=None
    )
    for i in (0, 1)
  ]
  rows = []
  for who, both in times.items():
    medians = [statistics.median(t) for t in both]
    limit = [b / bandwidth / m * 1e3 for b, m in zip(moved, medians)]
    row = dict(op=name, shape=shape, by=who, forward=both[0], both=both[1], limit=limit)
    ratio = ""
    if who not in PEERS.value and all(theirs):
      row["ratio"] = [m / t for m, t in zip(medians, theirs)]
      ratio = " / ".join(f"{r:.2f}" for r in row["ratio"])
    rows.append(row)
    text = " / ".join(f"{x:.0%}" for x in limit)
    line = f"{name:<19} {shape:<16} {who:<10} {spread(both[0]):>21}"
    print(f"{line} {spread(both[1]):>21}  {text:<11}  {ratio}", flush=True)
  return rows


def example(name, sizes):
  """q, k, v and gates; keys of length 1, decays as of log sigmoid. Or x and taps."""
  B, T, H, K, V = sizes
  keys = iter(jax.random.split(jax.random.key(0), 16))
  dtype = jnp.dtype(DTYPE.value)
  normal = lambda *shape: jax.random.normal(next(keys), shape)
  if name == "short_conv":
    return normal(B, T, H * K).astype(dtype), normal(TAPS, H * K), normal(H * K)
  q, k, v = normal(B, T, H, K), normal(B, T, H, K), normal(B, T, H, V)
  k /= jnp.linalg.norm(k, axis=-1, keepdims=True)
  scalar = jax.nn.log_sigmoid(normal(B, T, H))
  diagonal = jnp.maximum(jax.nn.log_sigmoid(normal(B, T, H, K)), -5)
  share = jax.nn.sigmoid(normal(B, T, H, K))
  gates = dict(
    scalar=scalar,
    diagonal=RWKV7_DECAY * share if name == "dplr" else diagonal,
    input=normal(B, T, H),
    signed=-jnp.exp(scalar),
    signed_diagonal=-jnp.exp(diagonal),
    beta=jax.nn.sigmoid(normal(B, T, H)).astype(dtype),
    a=(-k * share).astype(dtype),
    b=k.astype(dtype),
  )
  return (*(x.astype(dtype) for x in (q, k, v)), *(gates[g] for g in GATES[name]))


def _ours(name, form, options, *args):
  if name == "mlstm" and "initial_state" in options:
    C = options["initial_state"]
    state = ops.MLSTMState(C, C[..., 0], C[..., 0, 0])
    options = options | {"initial_state": state}
  if name == "short_conv":
    options = options | {"activation": "silu"}
  return getattr(ops, name)(*args, implementation=form, **options)


def _jitted(name, run, args, options):
  """Forward, and forward with backward, as calls without arguments.

  The last state is made where there is one before.
  """
  outputs = run if "initial_state" in options else lambda *args: run(*args)[0]

  def both(do, *args):
    o, pullback = jax.vjp(lambda *args: run(*args)[0], *args)
    return o, pullback(do)

  like = like_output(name, args)
  do = jax.random.normal(jax.random.key(1), like.shape, like.dtype)
  return Call(outputs, *args), Call(both, do, *args), jax.block_until_ready


class Call:
  """Of a jitted function with its arguments; many can be compiled at a time."""

  def __init__(self, run, *args):
    self.run, self.args = jax.jit(run), args

  def compile(self):
    self.run = self.run.lower(*self.args).compile()

  def __call__(self):
    return self.run(*self.args)


def _jla(peer, name, args, options):
  if name not in JLA:
    return None
  from jla import ops as theirs

  kind, gates = JLA[name]
  impl = "chunked" if peer == "jla_plain" else "mosaic_gpu"
  options = options | {"output_final_state": "initial_state" in options}
  if name == "dplr":  # Its kernel wants to know.
    options["lower_bound"] = RWKV7_DECAY
  run = lambda *x: theirs.linear_attention(
    kind, *x[:3], impl=impl, **dict(zip(gates, x[3:])), **options
  )
  return _jitted(name, run, args, options)


def _cudnn(name, args, options):
  q, k, v = args[:3]
  if name != "scalar_decay" or q.shape != v.shape or options:
    return None
  run = lambda q, k, v: jax.nn.dot_product_attention(
    q, k, v, is_causal=True, implementation="cudnn"
  )
  return _jitted(name, lambda *x: (run(*x), None), (q, k, v), options)


def _fla(name, args, options):
  if name not in FLA or options:
    return None
  import importlib

  import torch

  module, function, gates = FLA[name]
  run = getattr(importlib.import_module(f"fla.ops.{module}"), function)
  names = ("r" if name == "dplr" else "q", "k", "v", *gates)
  call = lambda *inputs: run(**dict(zip(names, inputs)))[0]
  return _torch(call, [torch.from_dlpack(x).clone() for x in args])


def _tfla(name, args, options):
  if name != "mlstm" or options:
    return None
  import torch
  from mlstm_kernels.torch.chunkwise.triton_xl_chunk import mlstm_chunkwise__xl_chunk

  def call(*inputs):
    out = mlstm_chunkwise__xl_chunk(*inputs)
    return out[0] if isinstance(out, tuple) else out

  by_head = (torch.from_dlpack(x).transpose(1, 2).contiguous().clone() for x in args)
  return _torch(call, list(by_head))


def _torch(call, inputs):
  import torch

  for x in inputs:
    x.requires_grad_()
  do = torch.randn_like(call(*inputs))

  def forward():
    with torch.no_grad():
      return call(*inputs)

  both = lambda: torch.autograd.grad(call(*inputs), inputs, do, allow_unused=True)
  return forward, both, lambda _: torch.cuda.synchronize()


def in_turn(runs) -> dict[str, tuple[list[float], list[float]]]:
  """Milliseconds a call, forward and with backward, of each that runs."""
  times = {}
  for who, (*calls, wait) in runs.items():
    try:
      for call in calls * 2:
        wait(call())
      times[who] = [], []
    except Exception as error:  # Likewise.
      print(f"{who} cannot: {_first_line(error)}")
  for _ in range(REPEATS.value):
    for who, record in times.items():
      *calls, wait = runs[who]
      for call, into in zip(calls, record):
        start = time.perf_counter()
        for _ in range(CALLS.value):
          out = call()
        wait(out)
        into.append((time.perf_counter() - start) / CALLS.value * 1e3)
  return times


def copy_bandwidth() -> float:
  """Bytes a second, read and written, of a copy of a gigabyte (less on a CPU)."""
  size = 1 << (29 if jax.default_backend() != "cpu" else 24)
  x = jax.random.normal(jax.random.key(0), (size,), jnp.bfloat16)
  double = jax.jit(lambda x: x * 2)
  forward = lambda: double(x)
  seconds = (
    statistics.median(
      in_turn({"copy": (forward, forward, jax.block_until_ready)})["copy"][0]
    )
    / 1e3
  )
  return 2 * x.nbytes / seconds


def _first_line(error):
  return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def spread(times) -> str:
  """Their median, and the 10% and 90% quantiles."""
  low, high = np.percentile(times, [10, 90])
  return f"{statistics.median(times):.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
  cli.run(main)
