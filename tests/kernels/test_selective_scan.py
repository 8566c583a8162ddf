"""The TPU kernels of the selective scan: interpreted, and compiled for TPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jaxseq_kernels.selective_scan import fused, pallas_tpu, reference, refusal

from jaxseq import ops, parallel, testing
from jaxseq.ops import dispatch
from jaxseq.ops.ssm import selective_scan as module

# Nearly all the time of these tests is compilation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
STRICT = pltpu.InterpretParams(
  detect_races=True, uninitialized_memory="nan", dma_execution_mode="on_wait"
)
BUDGET = {"float32": 1e-5, "bfloat16": 5e-3}  # Against float64, of the norm.
NAMES = ("y", "last", "dx", "ddt", "dA", "dB", "dC", "dstate")


def inputs(B=1, T=150, D=130, N=5, packed=False, seed=0):
  """The arrays, the starts, and the gradients of outputs and last state.

  Some steps are 0, some so large that the state is lost, and some states never fade.
  """
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape)
  kind = rng.random((B, T, D))
  dt = 0.1 * rng.exponential(size=kind.shape)
  dt = np.where(kind < 0.05, 200, np.where(kind < 0.2, 0, dt))
  A = -rng.uniform(0.5, 4, (N, D))
  A[0] = 0
  starts = (rng.random((B, T)) < 0.05) & (np.arange(T) > 2) if packed else None
  arrays = normal(B, T, D), dt, A, normal(B, T, N), normal(B, T, N), normal(B, N, D)
  return arrays, starts, (normal(B, T, D), normal(B, N, D))


@pytest.fixture
def few_at_a_time(monkeypatch):
  """Columns that are unrolled."""
  monkeypatch.setattr(pallas_tpu, "GROUP", 4)


def results(run, arrays, gradients):
  """Outputs and all gradients."""
  out, pull = jax.vjp(run, *arrays)
  return *out, *pull(gradients)


@pytest.mark.parametrize(
  "dtype, interpret, sizes",
  [
    ("float32", STRICT, dict(T=140, packed=True)),
    ("bfloat16", STRICT, dict(T=21)),
    ("float32", True, dict(B=2, T=9, D=256, N=16)),
    ("bfloat16", True, dict(T=135, D=384, N=9, packed=True)),
  ],
)
def test_it_is_the_reference_with_its_gradients(dtype, interpret, sizes, few_at_a_time):
  arrays, starts, gradients = inputs(**sizes)
  low = [y.astype("float32") for y in arrays]
  low[0] = jnp.asarray(low[0], dtype)
  arrays = (np.asarray(low[0], np.float64), *arrays[1:])
  run = lambda *args: fused(*args, starts, backend="tpu", interpret=interpret)
  step = jit(functools.partial(results, run))
  got = step(low, tuple(y.astype("float32") for y in gradients))
  with jax.enable_x64():
    plain = lambda *args: reference.forward(*args, starts)
    exact = [jnp.asarray(y) for y in arrays], tuple(map(jnp.asarray, gradients))
    want = [np.asarray(y) for y in results(plain, *exact)]
  for name, g, w in zip(NAMES, got, want):
    error = np.linalg.norm(np.asarray(g, np.float64) - w) / np.linalg.norm(w)
    assert error < BUDGET[dtype], f"{name}: {error:.2g}"


@pytest.fixture
def on_tpu(monkeypatch, few_at_a_time):
  """The op's form as on a TPU, but interpreted."""
  monkeypatch.setattr(dispatch, "no_kernels", lambda backend: None)
  monkeypatch.setattr(module.kernel, "fused", functools.partial(fused, interpret=True))


def scan(x, dt, A, B, C, D, state, *, ids, form):
  return ops.selective_scan(
    *(x, dt, A, B, C, D), initial_state=state, segment_ids=ids, implementation=form
  )


@pytest.mark.parametrize("packed", [False, True])
def test_the_op_gives_what_its_definition_gives(packed, on_tpu):
  (x, dt, A, B, C, state), _, gradients = inputs(B=2, T=20, D=12, N=3)
  args = (x, dt, A.T, B, C, x[0, 0], state.swapaxes(1, 2))
  args, (dy, dlast) = jax.tree.map(lambda y: y.astype("float32"), (args, gradients))
  ids = jnp.stack([jnp.arange(20) // 7, 1 + jnp.arange(20) // 16]) if packed else None

  def run(form):
    step = functools.partial(results, functools.partial(scan, ids=ids, form=form))
    return jit(step)(args, (dy, dlast.swapaxes(1, 2)))

  testing.assert_close(run("auto"), run("recurrent"))


def test_over_eight_devices_it_gives_what_one_gives(on_tpu, eight_devices):
  (x, dt, A, B, C, state), _, gradients = inputs(B=4, T=20, D=12, N=3)
  args = (x, dt, A.T, B, C, x[0, 0], state.swapaxes(1, 2))
  args, (dy, dlast) = jax.tree.map(lambda y: y.astype("float32"), (args, gradients))
  run = functools.partial(scan, ids=None, form="pallas_tpu")
  step = functools.partial(results, run)
  gradients = (dy, dlast.swapaxes(1, 2))
  want = jit(step)(args, gradients)
  with jax.set_mesh(eight_devices):
    got = jit(step)(args, gradients)
  testing.assert_close(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


def test_it_says_why_it_cannot_take_a_call(on_tpu):
  arrays, *_ = inputs(T=8)
  args = [y.astype("float32") for y in arrays]
  assert refusal(*args, None, backend="tpu") is None
  half = refusal(args[0].astype("float16"), *args[1:], None, backend="tpu")
  assert "not float16" in half
  many = (*args[:2], np.zeros((40, 130)), *args[3:])
  assert "at most 32 states a channel, not 40" in refusal(*many, None, backend="tpu")
  wide = (*args[:2], np.zeros((16, 20_000)), *args[3:])
  assert "not 16 x 20000" in refusal(*wide, None, backend="tpu")
  x, beta, k = args[0], args[1], args[3]
  with pytest.raises(NotImplementedError, match="exp.dt A. alone"):
    ops.diagonal_delta_rule(x, beta, k, k, implementation="pallas_tpu")


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
@pytest.mark.parametrize(
  "dtype, sizes, packed",
  [
    ("bfloat16", (4, 4096, 2048, 16), True),
    ("float32", (4, 4096, 2048, 16), False),
    ("float32", (1, 512, 8192, 16), True),
    ("float32", (1, 512, 4096, 32), True),
  ],
)
def test_it_compiles_for_a_tpu_forward_and_backward(dtype, sizes, packed, topology):
  pytest.importorskip("libtpu")
  from jax.experimental import topologies

  devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  mesh = parallel.make_mesh(parallel.MeshConfig(data=1), devices[:1])
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
  B, T, D, N = sizes
  f32 = functools.partial(array, "float32")
  arrays = (
    *(array(dtype, B, T, D), f32(B, T, D), f32(N, D)),
    *(array(dtype, B, T, N), array(dtype, B, T, N), f32(B, N, D)),
  )
  starts = array("bool", B, T) if packed else None

  def step(arrays, starts, gradients):
    run = lambda *args: fused(*args, starts, backend="tpu")
    return results(run, arrays, gradients)

  with jax.set_mesh(mesh):
    lowered = jax.jit(step).lower(arrays, starts, (f32(B, T, D), f32(B, N, D)))
    text = lowered.compile().as_text()
  for name in ("forward", "backward"):
    assert f"selective_scan_{name}" in text
