"""The step's kernel against plain JAX: by the interpreter here, on a GPU as it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxseq_kernels import matrix_step
from jaxseq_kernels.matrix_step import reference

from jaxseq import ops
from jaxseq.ops import dispatch

pytest.importorskip("jax.experimental.pallas.mosaic_gpu")

ON_GPU = jax.default_backend() == "gpu"
# By op, its gates: "H" one number a head, "K" one a channel.
GATES = {
  "linear_attention": {},
  "scalar_decay": dict(log_decay="H"),
  "diagonal_decay": dict(log_decay="K"),
  "delta_rule": dict(beta="H"),
  "gated_delta_rule": dict(log_decay="H", beta="H"),
  "channel_delta_rule": dict(log_decay="K", beta="H"),
  "dplr": dict(a="K", b="K", log_decay="K"),
}
TAKERS = ("delta_rule", "gated_delta_rule", "channel_delta_rule", "dplr")


def draw(name, B=2, H=3, K=32, V=64, dtype=jnp.float32):
  """q, k, v, and by name the gates and the state."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  q, k, v = normal(B, 1, H, K), normal(B, 1, H, K), normal(B, 1, H, V)
  k /= jnp.linalg.norm(k, axis=-1, keepdims=True)
  shapes = dict(H=(B, 1, H), K=(B, 1, H, K))
  gates = {gate: normal(*shapes[axes]) for gate, axes in GATES[name].items()}
  if "log_decay" in gates:
    gates["log_decay"] = jax.nn.log_sigmoid(gates["log_decay"])
  if "beta" in gates:
    gates["beta"] = jax.nn.sigmoid(gates["beta"])
  return *(x.astype(dtype) for x in (q, k, v)), gates, normal(B, H, K, V)


def interpreter():
  from jax.experimental.pallas import mosaic_gpu as plgpu

  return False if ON_GPU else plgpu.InterpretGPUParams()


def step(q, k, v, gates, state):
  run = functools.partial(
    matrix_step.fused, scale=0.7, backend="gpu", interpret=interpreter()
  )
  return jax.jit(lambda *x: run(*x[:3], x[4], **x[3]))(q, k, v, gates, state)


def error(got, want):
  got, want = (np.asarray(x, np.float64) for x in (got, want))
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", GATES)
def test_it_is_the_op_s_recurrent_form(name, dtype):
  q, k, v, gates, state = draw(name, dtype=dtype)
  got = step(q, k, v, gates, state)
  wide = (x.astype(jnp.float32) for x in (q, k, v))
  want = getattr(ops, name)(
    *wide, **gates, initial_state=state, scale=0.7, implementation="recurrent"
  )
  assert got[0].dtype == dtype
  assert error(got[0], want[0]) < (1e-6 if dtype == jnp.float32 else 4e-3)
  assert error(got[1], want[1]) < 1e-6


@pytest.mark.parametrize("K,V", [(64, 32), (96, 128), (256, 96)])
def test_heads_of_other_sizes(K, V):
  q, k, v, gates, state = draw("channel_delta_rule", 1, 2, K, V)
  want = reference.forward(q, k, v, state, **gates, a=None, b=None, scale=0.7)
  for a, b in zip(step(q, k, v, gates, state), want, strict=True):
    assert error(a, b) < 1e-6


@pytest.mark.parametrize("name", ["channel_delta_rule", "dplr"])
def test_its_gradients_are_those_of_the_recurrent_form(name):
  arrays = draw(name)

  def recurrent(q, k, v, gates, state):
    return getattr(ops, name)(
      *(q, k, v), **gates, initial_state=state, scale=0.7, implementation="recurrent"
    )

  def gradients(run):
    out, pullback = jax.vjp(run, *arrays)
    return jax.tree.leaves(pullback(jax.tree.map(jnp.cos, out)))

  for a, b in zip(gradients(step), gradients(recurrent), strict=True):
    assert error(a, b) < 1e-5


@pytest.mark.parametrize("name", ["delta_rule", "dplr"])
@pytest.mark.parametrize("K,V", [(128, 128), (256, 256)])
def test_it_lowers_for_a_hopper_gpu(name, K, V, lowered_for_hopper):
  shape = lambda *x: jax.ShapeDtypeStruct(x, jnp.float32)
  B, H = 8, 4
  shapes = dict(H=shape(B, 1, H), K=shape(B, 1, H, K))
  gates = {gate: shapes[axes] for gate, axes in GATES[name].items()}
  q, v, state = shape(B, 1, H, K), shape(B, 1, H, V), shape(B, H, K, V)
  run = lambda q, k, v, gates, state: getattr(ops, name)(
    q, k, v, **gates, initial_state=state, implementation="pallas_gpu_step"
  )
  assert "matrix_step" in lowered_for_hopper(run, q, q, v, gates, state)


def test_it_says_what_it_cannot_take():
  def refuse(T=1, K=64, V=64, dtype=jnp.float32, scale=1.0):
    x, v = jnp.zeros((1, T, 1, K), dtype), jnp.zeros((1, T, 1, V), dtype)
    state = jnp.zeros((1, 1, K, V))
    return matrix_step.refusal(x, x, v, state, scale=scale, backend="gpu")

  assert refuse() is None
  assert refuse(dtype=jnp.bfloat16) is None
  assert "one token, not 2" in refuse(T=2)
  assert "bfloat16" in refuse(dtype=jnp.float16)
  assert "multiples of 32" in refuse(V=48)
  assert "at most 256" in refuse(K=512)
  assert "a number" in refuse(scale=jnp.ones(()))


@pytest.mark.skipif(ON_GPU, reason="there the kernel runs")
def test_without_a_gpu_it_refuses_by_name_and_gives_way_to_the_recurrent_form():
  q, k, v, gates, state = draw("gated_delta_rule")
  run = functools.partial(ops.gated_delta_rule, q, k, v, **gates, initial_state=state)
  with pytest.raises(NotImplementedError, match="needs a GPU, not cpu"):
    run(implementation="pallas_gpu_step")
  for a, b in zip(run(), run(implementation="recurrent"), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.fixture
def by_interpreter(monkeypatch):
  """The ops may take the kernel anywhere."""
  fused = functools.partial(matrix_step.fused, interpret=interpreter())
  monkeypatch.setattr(matrix_step, "fused", fused)
  monkeypatch.setattr(dispatch, "no_kernels", lambda backend: None)


@pytest.mark.parametrize("name", TAKERS)
def test_auto_takes_it_for_one_token_and_padding_keeps_the_state(name, by_interpreter):
  q, k, v, gates, state = draw(name)
  ids = jnp.asarray([[1], [0]])
  run = lambda form: getattr(ops, name)(
    *(q, k, v), **gates, initial_state=state, segment_ids=ids, implementation=form
  )
  (o, S), kernel, recurrent = map(run, ("auto", "pallas_gpu_step", "recurrent"))
  np.testing.assert_array_equal(o, kernel[0])
  np.testing.assert_array_equal(S[1], state[1])
  assert not np.any(o[1])
  assert error(o, recurrent[0]) < 1e-6
  assert error(S, recurrent[1]) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mlstm_takes_it_for_its_memory(dtype, by_interpreter):
  q, k, v, _, C = draw("linear_attention", dtype=dtype)
  i, f = jnp.asarray([[[-3.0, 4, 9]], [[1, 0, 2]]]), -jnp.ones((2, 1, 3))
  state = ops.MLSTMState(C, C[..., 0], jnp.asarray([[1.0, 2, 3], [0, 5, 1]]))
  ids = jnp.asarray([[1], [0]])
  got, want = (
    ops.mlstm(
      *(q, k, v, i, f),
      initial_state=state,
      segment_ids=ids,
      implementation=form,
    )
    for form in ("pallas_gpu_step", "recurrent")
  )
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert error(a, b) < (1e-2 if a.dtype == jnp.bfloat16 else 1e-6)
