import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


def test_its_heads_are_those_of_flashrnn_with_their_gradients():
  oracle = np.load(ORACLES / "flashrnn_gru.npz")
  state = jnp.asarray(oracle["s0"][0, :, 0])

  def states(Wx, R, b):
    gates = (Wx + b[1:]).transpose(1, 0, 3, 2, 4)  # From [T, B, 3, H, K]; r, z, n.
    weights = R.transpose(0, 2, 3, 1)[:, jnp.array([1, 2, 0])]  # From [H, K, nrz, K].
    return ops.gru(gates, weights, b[0], initial_state=state)

  args = [jnp.asarray(oracle[name]) for name in ("Wx", "R", "b")]
  got, last = states(*args)
  np.testing.assert_allclose(got.swapaxes(0, 1), oracle["states"][:, :, 0], atol=1e-6)
  np.testing.assert_allclose(last, got[:, -1], atol=1e-6)
  cotangents = oracle["cot_states"][:, :, 0].swapaxes(0, 1)
  loss = lambda *args: jnp.sum(states(*args)[0] * cotangents)
  grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)
  for name, grad in zip(("Wx", "R", "b"), grads):
    np.testing.assert_allclose(grad, oracle[f"grad_{name}"], atol=1e-5)


def test_an_open_reset_gate_makes_both_places_of_the_reset_one():
  keys = jax.random.split(jax.random.key(0), 3)
  gates = jax.random.normal(keys[0], (2, 7, 2, 3, 4)).at[..., 0, :].set(50.0)
  R, bias = jax.random.normal(keys[1], (2, 3, 4, 4)), jax.random.normal(keys[2], (2, 4))
  run = lambda gates, reset: ops.gru(gates, R, bias, reset=reset)[0]
  np.testing.assert_allclose(run(gates, "after"), run(gates, "before"), atol=1e-5)
  half = gates.at[..., 0, :].set(0.0)
  assert np.abs(run(half, "after") - run(half, "before")).max() > 1e-2


def test_a_reset_elsewhere_is_named():
  with pytest.raises(ValueError, match="gru needs reset in .* got 'never'"):
    ops.gru(jnp.ones((1, 2, 1, 3, 4)), jnp.ones((1, 3, 4, 4)), reset="never")
