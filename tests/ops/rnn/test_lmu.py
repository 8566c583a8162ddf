import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing
from jaxseq.ops.ssm.legendre_delay import legendre_delay

jitted = jax.jit(ops.lmu, static_argnames="implementation")

BUDGET = 3e-6  # Of float32 against float64, as a share of the largest value.
K, N = 4, 5


def case(T, packed, scale=1.0, seed=0):
  rng = np.random.default_rng(seed)
  u, x = scale * rng.normal(size=(2, T)), scale * rng.normal(size=(2, T, K))
  learned = (0.3 * rng.normal(size=s) for s in ((K,), (N,), (K, K), (K, N)))
  weights = ops.LMUWeights(*legendre_delay(N, 9.0), *learned)
  state = ops.LMUState(rng.normal(size=(2, K)), rng.normal(size=(2, N)))
  ids = np.sort(rng.integers(1, 4, (2, T)), axis=1)
  ids[0, : T // 4], ids[1, T - T // 5 :] = 0, 0
  args = jax.tree.map(np.float32, (u, x, weights))
  return args, jax.tree.map(np.float32, state), ids if packed else None


def loop(u, x, weights, state, ids):
  """The recurrence in numpy, float64."""
  A, B, e_h, e_m, W_h, W_m = map(np.float64, weights)
  h, m = (np.array(s, np.float64) for s in state)
  out = np.zeros(x.shape)
  for b in range(len(u)):
    document = None
    for t in range(u.shape[1]):
      token = 1 if ids is None else ids[b, t]
      if token == 0:
        continue
      if document not in (None, token):
        h[b], m[b] = 0, 0
      document = token
      m[b] = A @ m[b] + B * (u[b, t] + e_h @ h[b] + e_m @ m[b])
      h[b] = np.tanh(x[b, t] + W_h @ h[b] + W_m @ m[b])
      out[b, t] = h[b]
  return out, h, m


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("T, scale", [(1, 1.0), (33, 1.0), (20, 300.0)])
def test_it_is_the_loop_at_large_inputs_too(T, scale, packed):
  args, state, ids = case(T, packed, scale)
  run = jax.jit(lambda args, s: jitted(*args, initial_state=s, segment_ids=ids))
  y, last = run(args, state)
  assert max(map(error, (y, *last), loop(*args, state, ids))) < BUDGET


def test_gradients_are_those_of_differences_in_float64():
  args, state, ids = case(9, packed=True)
  leaves, treedef = jax.tree.flatten((args, state))
  leaves = [np.float64(leaf) for leaf in leaves]
  rng = np.random.default_rng(1)
  bars = rng.normal(size=(2, 9, K)), rng.normal(size=(2, K)), rng.normal(size=(2, N))

  def loss(run, leaves):
    args, state = jax.tree.unflatten(treedef, leaves)
    return sum((a * b).sum() for a, b in zip(run(args, state), bars))

  def op(args, state):
    y, last = jitted(*args, initial_state=state, segment_ids=ids)
    return y, *last

  with jax.enable_x64():
    grads = jax.jit(jax.grad(lambda leaves: loss(op, leaves)))(leaves)
    grads = [np.asarray(grad) for grad in grads]
  for i, grad in enumerate(grads):
    step = 1e-6 * rng.normal(size=grad.shape)
    ends = (
      loss(lambda args, s: loop(*args, s, ids), [*leaves[:i], leaf, *leaves[i + 1 :]])
      for leaf in (leaves[i] + step, leaves[i] - step)
    )
    np.testing.assert_allclose(2 * np.sum(grad * step), np.subtract(*ends), rtol=1e-6)


def test_without_feedback_its_memory_is_the_dense_recurrence():
  (u, x, weights), _, ids = case(20, packed=True)
  zero = {name: 0 * getattr(weights, name) for name in ("e_h", "e_m", "W_h")}
  y, last = jitted(u, x, weights._replace(**zero), segment_ids=ids)
  m, end = ops.dense_recurrence(u[..., None], *weights[:2], segment_ids=ids)
  want = jnp.tanh(x + m[:, :, 0] @ weights.W_m.T)
  testing.assert_close(y, jnp.where(ids[..., None] != 0, want, 0))
  testing.assert_close(last.m, end[:, 0])


@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.integers(2, 20), st.integers(1, 19))
def test_any_split_gives_the_whole(T, cut):
  cut = min(cut, T - 1)
  (u, x, weights), state, _ = case(T, False, seed=T)
  run = jax.jit(lambda u, x, s: jitted(u, x, weights, initial_state=s))
  whole, last = run(u, x, state)
  head, between = run(u[:, :cut], x[:, :cut], state)
  tail, end = run(u[:, cut:], x[:, cut:], between)
  testing.assert_close((jnp.concatenate([head, tail], 1), end), (whole, last))


def test_wrong_shapes_are_named():
  (u, x, weights), _, _ = case(3, False)
  with pytest.raises(ValueError, match="lmu needs x .* got shape"):
    jitted(u, x[:, :2], weights)
  with pytest.raises(ValueError, match=r"W_h of shape \(4, 4\)"):
    jitted(u, x, weights._replace(W_h=jnp.ones((4, 5))))
  with pytest.raises(ValueError, match="'auto' or one of"):
    jitted(u, x, weights, implementation="fft")
