"""The TPU kernels of the diagonal recurrence: interpreted, and compiled for TPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jaxseq_kernels.diagonal_recurrence import fused, pallas_tpu, reference, refusal

from jaxseq import ops, parallel, testing
from jaxseq.ops import dispatch
from jaxseq.ops.ssm import diagonal_recurrence as module

STRICT = pltpu.InterpretParams(
  detect_races=True, uninitialized_memory="nan", dma_execution_mode="on_wait"
)
BUDGET = 1e-5  # Of float32 against float64, as a share of the norm.


def inputs(kind, same, B=2, T=21, D=130, seed=0):
  """Factors, inputs, state, and the gradients of all states and of the last one.

  Some factors are 0, as where a document starts, and some 1.
  """
  rng = np.random.default_rng(seed)

  def draw(*shape):
    x = rng.normal(size=shape)
    return x + 1j * rng.normal(size=shape) if kind == "complex" else x

  a = draw(D) if same else draw(B, T, D)
  modulus = rng.choice([0, 0.3, 0.99, 1], a.shape)
  a *= modulus / np.abs(a)
  return a, draw(B, T, D), draw(B, D), draw(B, T, D), draw(B, D)


def results(run, a, x, state, dh, dlast):
  """Outputs and all gradients."""
  out, pull = jax.vjp(run, a, x, state)
  return *out, *pull((dh, dlast))


def check(kind, same, interpret, **sizes):
  args = inputs(kind, same, **sizes)
  low = [y.astype("complex64" if kind == "complex" else "float32") for y in args]
  run = functools.partial(fused, backend="tpu", interpret=interpret)
  got = jax.jit(functools.partial(results, run))(*low)
  with jax.enable_x64():
    want = results(reference.forward, *map(jnp.asarray, args))
    want = [np.asarray(y) for y in want]
  for name, g, w in zip(("h", "last", "da", "dx", "dstate"), got, want):
    error = np.linalg.norm(np.asarray(g) - w) / np.linalg.norm(w)
    assert error < BUDGET, f"{name}: {error:.2g}"


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_it_is_the_reference_with_its_gradients(kind, same, monkeypatch):
  monkeypatch.setattr(pallas_tpu, "TOKENS", 16)
  check(kind, same, STRICT)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(
  "sizes", [dict(B=3, T=37, D=300), dict(B=6, T=8, D=5), dict(B=1, T=1, D=128)]
)
def test_sizes_may_be_any(sizes, same, monkeypatch):
  monkeypatch.setattr(pallas_tpu, "TOKENS", 16)
  monkeypatch.setattr(pallas_tpu, "WIDTH", 256)
  check("real", same, True, **sizes)


@pytest.fixture
def on_tpu(monkeypatch):
  """The op's form as on a TPU, but interpreted."""
  monkeypatch.setattr(dispatch, "no_kernels", lambda backend: None)
  monkeypatch.setattr(module.kernel, "fused", functools.partial(fused, interpret=True))


@pytest.mark.parametrize("axes", [(2, 19, 3, 4), (2, 19, 1, 4), (3, 1)])
@pytest.mark.parametrize("packed", [False, True])
def test_the_op_gives_what_its_definition_gives(axes, packed, on_tpu):
  keys = jax.random.split(jax.random.key(0), 3)
  a = jax.random.uniform(keys[0], axes, minval=-1)
  x = jax.random.normal(keys[1], (2, 19, 3, 4))
  state = jax.random.normal(keys[2], (2, 3, 4))
  ids = jnp.stack([jnp.arange(19) // 7, 1 + jnp.arange(19) // 16])

  def run(form):
    def loss(a, x, state):
      out = ops.diagonal_recurrence(
        a,
        x,
        initial_state=state,
        segment_ids=ids if packed else None,
        implementation=form,
      )
      return sum(jnp.sum(jnp.sin(y)) for y in out), out

    step = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(step)(a, x, state)

  testing.assert_close(run("pallas_tpu"), run("recurrent"))


@pytest.mark.parametrize("same", [False, True])
def test_over_eight_devices_it_gives_what_one_gives(same, on_tpu, eight_devices):
  args = [y.astype("float32") for y in inputs("real", same, B=4, D=128)]
  run = functools.partial(
    ops.diagonal_recurrence, reverse=True, implementation="pallas_tpu"
  )
  plain = lambda a, x, state: run(a, x, initial_state=state)
  step = functools.partial(results, plain)
  want = jax.jit(step)(*args)
  with jax.set_mesh(eight_devices):
    got = jax.jit(step)(*args)
  testing.assert_close(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


def test_it_says_why_it_cannot_take_a_call():
  a, x, state, *_ = (y.astype("float32") for y in inputs("real", False))
  assert refusal(a, x, state, backend="tpu") is None
  assert "not float16, float32" in refusal(a, x, state.astype("float16"), backend="tpu")
  if jax.default_backend() == "cpu":
    with pytest.raises(NotImplementedError, match="needs a TPU, not cpu"):
      ops.diagonal_recurrence(a, x, implementation="pallas_tpu")


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("kind", ["float32", "complex64"])
def test_it_compiles_for_a_tpu_forward_and_backward(kind, same, topology):
  pytest.importorskip("libtpu")
  from jax.experimental import topologies

  devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  mesh = parallel.make_mesh(parallel.MeshConfig(data=1), devices[:1])
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  B, T, D = (4, 4096, 2048 if kind == "float32" else 1024)
  shapes = ((D,) if same else (B, T, D), (B, T, D), (B, D), (B, T, D), (B, D))
  args = [jax.ShapeDtypeStruct(s, kind, sharding=place) for s in shapes]
  step = functools.partial(results, functools.partial(fused, backend="tpu"))
  with jax.set_mesh(mesh):
    text = jax.jit(step).lower(*args).compile().as_text()
  for name in ("forward", "backward"):
    assert f"diagonal_recurrence_{name}" in text
