import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import ops

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


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
