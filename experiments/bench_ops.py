r"""Times the forms of the matrix-state ops, beside another library's if asked.

  python -m experiments.bench_ops --shape=8,2048,16,128 --forms=chunked
  python -m experiments.bench_ops --peer=jla       # pip install jax-linear-attention

A row is an op and a form: median milliseconds of the forward pass, and of forward and
backward pass together, with the 10% and 90% quantiles. A peer's row is its plain JAX
form, run in turn with ours, so that both see the same machine; "ratio" is ours by the
peer's, below 1 where ours is faster. The first call, which compiles, is not counted.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import cli
from jaxseq import ops

OPS = flags.DEFINE_list("ops", None, "Ops to time; by default all.")
FORMS = flags.DEFINE_list("forms", ["chunked"], "Forms of each.")
SHAPE = flags.DEFINE_list("shape", ["8", "2048", "16", "128"], "B,T,H,K; V is K.")
DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Of q, k, v.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Timed calls of each.")
PEER = flags.DEFINE_enum("peer", None, ["jla"], "Another library to time in turn.")

# By op, the arrays that follow q, k and v.
GATES = {
  "linear_attention": (),
  "scalar_decay": ("scalar",),
  "diagonal_decay": ("diagonal",),
  "signed_scalar_decay": ("signed",),
  "signed_diagonal_decay": ("signed_diagonal",),
  "delta_rule": ("beta",),
  "gated_delta_rule": ("scalar", "beta"),
  "channel_delta_rule": ("diagonal", "beta"),
}
JLA = {  # By our op, its name there and its names of the gates.
  "scalar_decay": ("simple_gla", ("g",)),
  "diagonal_decay": ("gla", ("g",)),
  "delta_rule": ("deltanet", ("beta",)),
  "gated_delta_rule": ("gated_deltanet", ("g", "beta")),
  "channel_delta_rule": ("kda", ("g", "beta")),
}


def main() -> None:
  with cli.usage_errors():
    shape = tuple(int(n) for n in SHAPE.value)
    if len(shape) != 4:
      raise cli.UsageError(f"--shape needs B,T,H,K; got {','.join(SHAPE.value)}")
    names = OPS.value or [name for name in GATES if hasattr(ops, name)]
    unknown = sorted(set(names) - set(GATES))
    if unknown:
      raise cli.UsageError(f"no op {', '.join(unknown)}; there are {', '.join(GATES)}")
  kind = jax.devices()[0].device_kind
  print(f"{kind}, jax {jax.__version__}, [B, T, H, K] = {shape}, {DTYPE.value}")
  print(f"{'op':<22} {'form':<12} {'forward ms':>22} {'and backward ms':>24}  ratio")
  for name in names:
    args = example(name, shape)
    runs = {form: functools.partial(_first, name, form) for form in FORMS.value}
    if PEER.value and name in JLA:
      runs["jla"] = functools.partial(_jla, name)
    times = time_in_turn(runs, args)
    for form, (forward, both) in times.items():
      ratio = ""
      if "jla" in times and form != "jla":
        theirs = [statistics.median(t) for t in times["jla"]]
        ours = [statistics.median(t) for t in (forward, both)]
        ratio = "  ".join(f"{a / b:.2f}" for a, b in zip(ours, theirs))
      row = f"{name:<22} {form:<12} {_spread(forward):>22} {_spread(both):>24}  {ratio}"
      print(row, flush=True)


def example(name, shape):
  """q, k, v and gates; keys of length 1, decays of 0.9 and nearer to 1."""
  B, T, H, K = shape
  keys = iter(jax.random.split(jax.random.key(0), 8))
  dtype = jnp.dtype(DTYPE.value)
  q, k, v = (jax.random.normal(next(keys), (B, T, H, K)) for _ in range(3))
  k /= jnp.linalg.norm(k, axis=-1, keepdims=True)
  scalar = -0.1 * jax.random.uniform(next(keys), (B, T, H))
  diagonal = -0.1 * jax.random.uniform(next(keys), (B, T, H, K))
  gates = dict(
    scalar=scalar,
    diagonal=diagonal,
    signed=-jnp.exp(scalar),
    signed_diagonal=-jnp.exp(diagonal),
    beta=jax.random.uniform(next(keys), (B, T, H)),
  )
  return (*(x.astype(dtype) for x in (q, k, v)), *(gates[g] for g in GATES[name]))


def _first(name, form, *args):
  return getattr(ops, name)(*args, implementation=form)[0]


def _jla(name, *args):
  from jla import ops as peer

  kind, gates = JLA[name]
  named = dict(zip(gates, args[3:]))
  return peer.linear_attention(kind, *args[:3], impl="chunked", **named)[0]


def time_in_turn(runs, args):
  """Milliseconds of each call, forward and with backward, of each of the runs."""
  compiled = {}
  for form, run in runs.items():
    cotangent = jnp.ones_like(args[2])

    def both(*args, run=run, cotangent=cotangent):
      o, pull = jax.vjp(run, *args)
      return o, pull(cotangent.astype(o.dtype))

    compiled[form] = [jax.jit(f) for f in (run, both)]
  times = {form: ([], []) for form in runs}
  for i in range(REPEATS.value + 2):
    for form, functions in compiled.items():
      for function, record in zip(functions, times[form]):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        if i > 1:
          record.append((time.perf_counter() - start) * 1e3)
  return times


def _spread(times):
  low, high = np.percentile(times, [10, 90])
  return f"{statistics.median(times):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
  cli.run(main)
