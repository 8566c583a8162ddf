r"""Times one token of decoding by the recurrences with a matrix state.

  python -m experiments.bench_decode                              # all, on this device
  python -m experiments.bench_decode --ops=delta_rule --shapes=B64H16D128

A program decodes `TOKENS` tokens in a loop that carries the state and feeds each output
back into the next token's v, as a model does through its layers. A row is an op, a
shape and a form: microseconds a token, medians with the 10% and 90% quantiles, the
forms in turn; and the share that reading and writing the state once would take of it at
the speed of the last row, a loop that scales the states and does nothing else.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
from absl import flags

from experiments import bench_kernels, cli
from jaxseq import ops
from jaxseq.ops import dispatch

# The other flags are those of bench_kernels.
flags.set_default(bench_kernels.SHAPES, ["B64H16D128"])
flags.set_default(bench_kernels.FORMS, [dispatch.STEP, "recurrent"])
TOKENS = 64
OPS = (
  *("scalar_decay", "diagonal_decay", "delta_rule", "gated_delta_rule"),
  *("channel_delta_rule", "dplr"),
)


def main() -> None:
  with cli.usage_errors():
    names = bench_kernels.OPS.value or OPS
    cli.check_known("op", names, OPS, " that decodes here")
    shapes = [bench_kernels.parse(f"T1{name}") for name in bench_kernels.SHAPES.value]
  kind = jax.devices()[0].device_kind
  print(f"{kind}, jax {jax.__version__}, {bench_kernels.DTYPE.value}, float32 states")
  print(f"{'op':<19} {'by':<16} {'us a token':>25}  of the scale's")
  for name, sizes in zip(bench_kernels.SHAPES.value, shapes):
    B, _, H, K, V = sizes
    state = jnp.zeros((B, H, K, V))
    runs = contenders(names, sizes, state) | {("any state", "scale"): scaling()}
    times = in_turn(runs, state)
    scale = statistics.median(times["any state", "scale"])
    print(name)
    for (op, who), record in times.items():
      share = f"{scale / statistics.median(record):.0%}"
      print(
        f"{op:<19} {who:<16} {bench_kernels.spread(record):>25}  {share}", flush=True
      )


def contenders(names, sizes, state):
  """By op and form the programs that can run; of others it prints why not."""
  runs = {}
  for op in names:
    for form in bench_kernels.FORMS.value:
      run = decoding(op, form, sizes)
      try:
        jax.eval_shape(run, state)
      except (NotImplementedError, ValueError) as error:
        reason = str(error).removeprefix(f"{op}: {form} cannot take this call: ")
        print(f"{op}: {form} cannot: {reason}")
      else:
        runs[op, form] = run
  return runs


def decoding(op, form, sizes):
  """From a state to that after `TOKENS` tokens."""
  q, k, v, *gates = bench_kernels.example(op, sizes)
  step = functools.partial(getattr(ops, op), implementation=form)

  def token(_, carry):
    o, state = carry
    return step(q, k, (v + 1e-3 * o).astype(v.dtype), *gates, initial_state=state)

  return lambda state: jax.lax.fori_loop(0, TOKENS, token, (v, state))[1]


def scaling():
  return lambda state: jax.lax.fori_loop(0, TOKENS, lambda _, S: 1.0001 * S, state)


def in_turn(runs, state) -> dict[tuple[str, str], list[float]]:
  """Microseconds a token of each, measured in turn."""
  runs = {who: jax.jit(run, donate_argnums=0) for who, run in runs.items()}
  times = {who: [] for who in runs}
  for _ in range(1 + bench_kernels.REPEATS.value):  # The first compiles.
    for who, run in runs.items():
      jax.block_until_ready(state)
      start = time.perf_counter()
      state = jax.block_until_ready(run(state))
      times[who].append((time.perf_counter() - start) / TOKENS * 1e6)
  return {who: record[1:] for who, record in times.items()}


if __name__ == "__main__":
  cli.run(main)
