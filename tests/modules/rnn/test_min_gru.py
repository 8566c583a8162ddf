import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.rnn import MinGRU, MinLSTM

ORACLE = np.load(pathlib.Path(__file__).parents[2] / "oracles" / "mingru.npz")


def params(weight, names):
  """From the rows of another implementation's single matrix, without biases."""
  parts = np.split(weight, len(names))
  zeros = np.zeros(len(parts[0]), np.float32)
  return {"params": {n: dict(kernel=W.T, bias=zeros) for n, W in zip(names, parts)}}


def test_min_gru_is_that_of_another_implementation_from_a_state_too():
  mixer = MinGRU(features=8, dtype=jnp.float32)
  weights = params(ORACLE["gru.to_hidden_and_gate.weight"], ("candidate", "gate"))
  y, _ = jax.jit(mixer.apply)(weights, ORACLE["x"])
  np.testing.assert_allclose(y, ORACLE["y_gru"], atol=1e-6)

  def from_state(x):
    return mixer.apply(weights, x, ORACLE["h0"][:, 0])[0]

  y, pull = jax.vjp(jax.jit(from_state), ORACLE["x"])
  np.testing.assert_allclose(y, ORACLE["y_gru_prev"], atol=1e-6)
  (grad,) = pull(ORACLE["cot_y_gru_prev"])
  np.testing.assert_allclose(grad, ORACLE["grad_x"], atol=1e-6)


def test_min_lstm_is_that_of_another_implementation():
  mixer = MinLSTM(features=8, dtype=jnp.float32)
  names = ("candidate", "forget", "input")
  weights = params(ORACLE["lstm.to_hidden_and_f_i_gate.weight"], names)
  y, _ = jax.jit(mixer.apply)(weights, ORACLE["x"])
  np.testing.assert_allclose(y, ORACLE["y_lstm"], atol=1e-6)


def test_extreme_gates_keep_all_or_nothing():
  mixer = MinLSTM(features=4, dtype=jnp.float32)
  weights, x = testing.example(mixer)
  state = jnp.full((2, 4), 3.0)
  biases = lambda f, i: {
    "params": weights["params"]
    | {
      name: dict(kernel=jnp.zeros((4, 4)), bias=jnp.full(4, b))
      for name, b in (("forget", f), ("input", i))
    }
  }
  y, last = jax.jit(mixer.apply)(biases(200.0, -200.0), x, state)
  np.testing.assert_array_equal(last, 3)
  y, _ = jax.jit(mixer.apply)(biases(-200.0, 200.0), x, state)
  z, _ = jax.jit(mixer.apply)(biases(-200.0, 200.0), x)
  np.testing.assert_array_equal(y, z)


def test_a_wide_state_comes_back_to_the_features_and_may_be_negative():
  mixer = MinGRU(features=6, expand=2, positive=False, dtype=jnp.float32)
  weights, x = testing.example(mixer)
  y, state = jax.jit(mixer.apply)(weights, x)
  assert y.shape == x.shape and state.shape == (2, 12)
  assert state.min() < 0
  assert "out" in weights["params"]
