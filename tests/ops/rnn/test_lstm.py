import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


def case(T=9, H=2, K=3):
  keys = jax.random.split(jax.random.key(0), 4)
  gates = jax.random.normal(keys[0], (2, T, H, 4, K))
  R = jax.random.normal(keys[1], (H, 4, K, K))
  state = ops.LSTMState(*(jax.random.normal(k, (2, H, K)) for k in keys[2:]))
  return gates, R, state


def test_it_is_the_equations_in_float64():
  gates, R, state = case()
  sigmoid = lambda z: 1 / (1 + np.exp(-z))
  h, c = (np.asarray(s, np.float64) for s in state)
  want = []
  for t in range(gates.shape[1]):
    z = np.asarray(gates, np.float64)[:, t] + np.einsum("hgjk,bhk->bhgj", R, h)
    i, f, g, o = np.moveaxis(z, 2, 0)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    want.append(h)
  got, last = ops.lstm(gates, R, initial_state=state)
  np.testing.assert_allclose(got, np.stack(want, 1), atol=2e-6)
  np.testing.assert_allclose(last.c, c, atol=2e-6)


def test_its_heads_are_those_of_flashrnn_with_their_gradients():
  oracle = np.load(ORACLES / "flashrnn_lstm.npz")
  state = ops.LSTMState(*(jnp.asarray(oracle["s0"][0, :, i]) for i in (0, 1)))

  def states(Wx, R, b):
    gates = (Wx + b).transpose(1, 0, 3, 2, 4)  # From [T, B, 4, H, K].
    weights = R.transpose(0, 2, 3, 1)  # From [H, K, 4, K], the old h first.

    def step(state, token):
      _, state = ops.lstm(token[:, None], weights, initial_state=state)
      return state, jnp.stack(state, axis=1)

    each = jax.lax.scan(step, state, gates.swapaxes(0, 1))[1]
    h, last = ops.lstm(gates, weights, initial_state=state)
    return each.at[:, :, 0].set(h.swapaxes(0, 1)), last

  args = [jnp.asarray(oracle[name]) for name in ("Wx", "R", "b")]
  got, last = states(*args)
  np.testing.assert_allclose(got, oracle["states"], atol=1e-6)
  np.testing.assert_allclose(jnp.stack(last, axis=1), got[-1], atol=1e-6)
  loss = lambda *args: jnp.sum(states(*args)[0] * oracle["cot_states"])
  grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)
  for name, grad in zip(("Wx", "R", "b"), grads):
    np.testing.assert_allclose(grad, oracle[f"grad_{name}"], atol=1e-5)


def test_gates_far_from_zero_saturate_and_stay_finite():
  gates, R, _ = case()
  gates = 200 * jnp.sign(gates)
  h, state = ops.lstm(gates, R)
  grads = jax.grad(lambda g: jnp.sum(ops.lstm(g, R)[0] ** 2))(gates)
  for x in (h, *state, grads):
    assert np.isfinite(x).all()


def test_documents_begin_from_an_empty_state():
  gates, R, state = case()
  ids = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0, 0], [0, 3, 3, 3, 3, 3, 3, 3, 3]])
  h, last = ops.lstm(gates, R, initial_state=state, segment_ids=ids)
  first = jax.tree.map(lambda s: s[:1], state)
  testing.assert_close(h[:1, :3], ops.lstm(gates[:1, :3], R, initial_state=first)[0])
  second, end = ops.lstm(gates[:1, 3:7], R)
  testing.assert_close(h[:1, 3:7], second)
  testing.assert_close(jax.tree.map(lambda s: s[:1], last), end)


def test_segment_ids_of_another_shape_are_named():
  gates, R, _ = case()
  with pytest.raises(ValueError, match="lstm needs segment_ids .* B = 2"):
    ops.lstm(gates, R, segment_ids=jnp.ones((1, 9), int))


@pytest.mark.parametrize(
  "gates, R", [((2, 5, 3, 2), (3, 4, 2, 2)), ((2, 5, 3, 4, 2), (3, 2, 4, 2))]
)
def test_wrong_shapes_are_named(gates, R):
  with pytest.raises(ValueError, match="lstm needs"):
    ops.lstm(jnp.ones(gates), jnp.ones(R))
