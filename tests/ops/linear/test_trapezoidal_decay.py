import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

BUDGET = {"float32": 5e-6, "bfloat16": 2e-2}
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(T, R, B=2, H=2, K=5, V=3):
  """q, k, v, the gates and a state, in float64."""
  rng = np.random.default_rng(T)
  q, k, v = (rng.normal(size=(B, T, H, R, n)) for n in (K, K, V))
  g = np.where(rng.random((B, T, H)) < 0.1, -200, -rng.exponential(0.1, (B, T, H)))
  weights = rng.uniform(size=(2, B, T, H))
  state = (rng.normal(size=(B, H, *shape)) for shape in ((K, V), (R, K), (R, V)))
  return [q, k, v, g, *weights], ops.TrapezoidalState(*state)


def pack(T):
  """Two rows of documents with padding before, between and after."""
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


@functools.partial(jit, static_argnums=0)
def pull(form, arrays, ids, cotangents):
  """Outputs, last state and the gradients of all inputs."""

  def run(tokens, state):
    return ops.trapezoidal_decay(
      *tokens, initial_state=state, segment_ids=ids, implementation=form
    )

  out, pullback = jax.vjp(run, *arrays)
  cotangents = jax.tree.map(lambda c, y: c.astype(y.dtype), cotangents, out)
  return out, pullback(cotangents)


@pytest.mark.parametrize("dtype", BUDGET)
@pytest.mark.parametrize("rank, packed", [(1, True), (3, False), (4, True)])
def test_the_chunked_form_keeps_its_budget(rank, packed, dtype):
  T = 43
  tokens, state = draw(T, rank)
  ids = pack(T) if packed else np.ones((2, T), np.int32)
  arrays = jax.tree.map(
    lambda x: np.asarray(jnp.asarray(x, dtype), np.float64), (tokens, state)
  )
  rng = np.random.default_rng(0)
  cotangents = jax.tree.map(lambda x: rng.normal(size=x.shape), (tokens[2], state))
  with jax.enable_x64(True):
    exact = jax.tree.map(jnp.asarray, arrays)
    want = pull("recurrent", exact, ids, cotangents)
    want = jax.tree.map(np.asarray, want)
  given = jax.tree.map(lambda x: jnp.asarray(x, dtype), arrays)
  got = pull("chunked", given, ids, cotangents)
  for i, (a, b) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(want))):
    a = np.asarray(a, np.float64)
    assert np.isfinite(a).all()
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    assert error < BUDGET[dtype], f"leaf {i} is off by {error:.2g}"


def test_a_split_sequence_gives_what_the_whole_gives():
  tokens, state = draw(75, 2)
  tokens, state = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (tokens, state))
  run = jit(functools.partial(ops.trapezoidal_decay, implementation="chunked"))
  whole, last = run(*tokens, initial_state=state)
  head, between = run(*(x[:, :38] for x in tokens), initial_state=state)
  tail, got_last = run(*(x[:, 38:] for x in tokens), initial_state=between)
  got = jnp.concatenate([head, tail], axis=1)
  np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5)
  for a, b in zip(got_last, last):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
def test_without_the_second_write_it_is_a_scalar_decay(form):
  tokens, _ = draw(37, 1)
  q, k, v, g, _, _ = (jnp.asarray(x, jnp.float32) for x in tokens)
  one, zero = jnp.ones_like(g), jnp.zeros_like(g)
  o, state = ops.trapezoidal_decay(q, k, v, g, one, zero, implementation=form)
  want, last = ops.scalar_decay(q[..., 0, :], k[..., 0, :], v[..., 0, :], g)
  np.testing.assert_allclose(o[..., 0, :], want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(state.memory, last, rtol=1e-4, atol=1e-5)


def test_the_trapezoidal_rule_is_of_second_order():
  """S' = -S + x(t) from 0 to 1 with x = cos 3t: the error falls fourfold by halving."""

  def error(steps, share):
    t = jnp.arange(1, steps + 1) / steps
    ones = jnp.ones((1, steps, 1, 1, 1))
    dt = jnp.full((1, steps, 1), 1 / steps)
    x = jnp.cos(3 * t).reshape(ones.shape)
    at_0 = ops.TrapezoidalState(jnp.zeros((1, 1, 1, 1)), *jnp.ones((2, 1, 1, 1, 1)))
    _, state = ops.trapezoidal_decay(
      ones, ones, x, -dt, share * dt, (1 - share) * dt, initial_state=at_0
    )
    exact = (np.cos(3) + 3 * np.sin(3) - np.exp(-1)) / 10
    return abs(state.memory.item() - exact)

  assert 3.8 < error(32, 0.5) / error(64, 0.5) < 4.2
  assert 1.8 < error(32, 1.0) / error(64, 1.0) < 2.2  # Euler's, Mamba-2's.


def test_a_shape_that_does_not_fit_is_named():
  tokens, state = draw(4, 2)
  with pytest.raises(ValueError, match="trapezoidal_decay needs current"):
    ops.trapezoidal_decay(*tokens[:4], tokens[4][:, :2], tokens[5])
  with pytest.raises(ValueError, match="trapezoidal_decay needs initial_state.k"):
    wrong = state._replace(k=state.k[..., :1, :])
    ops.trapezoidal_decay(*tokens, initial_state=wrong)
