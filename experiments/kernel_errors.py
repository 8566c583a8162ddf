r"""How far the kernels are from the recurrence in float64, beside the plain form.

  python -m experiments.kernel_errors                       # interpreted, on any CPU
  python -m experiments.kernel_errors --backend=tpu --dtype=float32
  python -m experiments.kernel_errors --ops=gated_delta_rule --draws=6 --tokens=512

A row is an op and a kind of inputs; in it are the outputs, the last state and each
gradient, with the relative error of the kernel and, behind it, the chunked form's on
the same inputs: ||x - x64|| / ||x64|| in thousandths, root mean square of draws. With
beta = 2 a token reflects what was written with its key; where keys repeat and nothing
fades, so does what was rounded away. On a GPU or TPU its own kernels run as they are.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import bench_kernels, cli
from experiments.bench_kernels import DTYPE, GATES
from jaxseq import ops

OPS = ("scalar_decay", "diagonal_decay", "gated_delta_rule")
OPS += ("channel_delta_rule", "dplr")  # Which have kernels of their own.
INPUTS = {  # How much of a key is its own, what decays are multiplied by, and beta.
  "ordinary": (1.0, 1.0, None),
  "extreme": (1.0, 1.0, None),  # And one decay in 20 is exp(-200).
  "fast": (1.0, 12.0, None),
  "one_key": (0.0, 1e-6, 2.0),
  "alike_fading": (0.5, 0.05, 2.0),
  "alike": (0.5, 0.0005, 2.0),
}
# The flags of ops and dtype are those of bench_kernels.
BACKEND = flags.DEFINE_enum("backend", "gpu", ["gpu", "tpu"], "Whose kernels.")
KINDS = flags.DEFINE_list(
  "inputs", list(INPUTS), "Kinds of inputs; those with beta = 2 for ops with a beta."
)
DRAWS = flags.DEFINE_integer("draws", 3, "Of each kind.", lower_bound=1)
TOKENS = flags.DEFINE_integer("tokens", 300, "In a row.", lower_bound=1)
HEADS = flags.DEFINE_integer("heads", 2, "In a row.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 64, "K and V.", lower_bound=1)
SCALE = 0.7


def main() -> None:
  names = bench_kernels.OPS.value or OPS
  with cli.usage_errors():
    cli.check_known("op", names, OPS)
    cli.check_known("inputs", KINDS.value, INPUTS)
  how = "interpreted" if interpreter() else jax.devices()[0].device_kind
  size = f"{TOKENS.value} tokens, {HEADS.value} heads of {WIDTH.value}"
  print(
    f"{BACKEND.value} kernels, {how}, {DTYPE.value}, {size}, {DRAWS.value} draws; "
    "thousandths, the chunked form's in brackets"
  )
  for op in names:
    for kind in KINDS.value:
      if INPUTS[kind][2] is None or "beta" in GATES[op]:
        print(row(op, kind), flush=True)


def row(op: str, kind: str) -> str:
  """The errors of an op's kernel on a kind of inputs, and of its chunked form."""
  both = np.array([errors(op, *draw(op, kind, seed)) for seed in range(DRAWS.value)])
  kernel, plain = 1e3 * np.sqrt(np.mean(both**2, axis=0))
  of_gates = dict(scalar="dg", diagonal="dg", beta="dbeta", a="da", b="db")
  names = ["o", "S", "dq", "dk", "dv", *(of_gates[gate] for gate in GATES[op])]
  cells = (f"{n} {x:.3g} ({y:.3g})" for n, x, y in zip(names, kernel, plain))
  return f"{op:<19} {kind:<13} " + "  ".join(f"{cell:<18}" for cell in cells).rstrip()


def draw(op: str, kind: str, seed: int):
  """Arguments of the op, and the gradient of its output."""
  own, fading, strength = INPUTS[kind]
  rng = np.random.default_rng(seed)
  normal = lambda *last: rng.standard_normal((1, TOKENS.value, HEADS.value, *last))
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  K = WIDTH.value
  k, q, v, do = unit(normal(K)), unit(normal(K)), normal(K), normal(K)
  if own < 1:
    k = unit(unit(normal(K))[:, :1] + own * k)
  by_channel = "diagonal" in GATES[op]
  g = -0.3 * fading * np.logaddexp(0, normal(*[K] * by_channel))
  if kind == "extreme":
    g = np.where(rng.random(g.shape) < 0.05, -200.0, g)
  beta = 1 / (1 + np.exp(-normal()))
  if strength is not None:
    beta = np.full_like(beta, strength)
  share = 1 / (1 + np.exp(-normal(K)))
  gates = dict(scalar=g, diagonal=g, beta=beta, a=-k * share, b=k)
  dtype = jnp.dtype(DTYPE.value)
  narrow = lambda name: dtype if name in "ab" else jnp.float32
  args = [jnp.asarray(x, dtype) for x in (q, k, v)]
  args += [jnp.asarray(gates[name], narrow(name)) for name in GATES[op]]
  return args, jnp.asarray(do, dtype)


def errors(op: str, args, do) -> tuple[list[float], list[float]]:
  """Of the kernel and of the chunked form."""
  package = importlib.import_module(f"jaxseq_kernels.{op}")
  none = [None] * 3  # Neither a state nor documents nor padding.
  kernel = lambda *x: package.fused(
    *x, *none, scale=SCALE, backend=BACKEND.value, interpret=interpreter()
  )
  form = lambda name: functools.partial(
    getattr(ops, op), scale=SCALE, implementation=name
  )
  found = [results(run, args, do) for run in (kernel, form("chunked"))]
  with jax.enable_x64(True):
    wide = [x.astype(jnp.float64) for x in (*args, do)]
    want = results(form("recurrent"), wide[:-1], wide[-1])
  distance = lambda x, y: float(np.linalg.norm(x - y) / np.linalg.norm(y))
  return tuple([distance(x, y) for x, y in zip(one, want)] for one in found)


def results(run, args, do) -> list[np.ndarray]:
  """Outputs, the last state, and all gradients."""

  @jax.jit
  def all_of_them(args, do):
    o, pullback, S = jax.vjp(run, *args, has_aux=True)
    return o, S, *pullback(do.astype(o.dtype))

  return [np.asarray(x, np.float64) for x in all_of_them(args, do)]


def interpreter():
  """Pallas's, for kernels of another device than is there; else False."""
  from jax.experimental.pallas import mosaic_gpu as plgpu

  if jax.default_backend() == BACKEND.value:
    return False
  return True if BACKEND.value == "tpu" else plgpu.InterpretGPUParams()


if __name__ == "__main__":
  # XLA has as many threads, on a CPU of two cores too: interpreted warpgroups, which
  # wait for each other, need one each.
  jax.config.update("jax_num_cpu_devices", 8)
  cli.run(main)
