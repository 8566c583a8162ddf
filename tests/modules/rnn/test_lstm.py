import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import ops
from jaxseq.modules.rnn import LSTM

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


def test_two_layers_are_those_of_torch():
  oracle = np.load(ORACLES / "torch_lstm.npz")
  mixer, y = LSTM(features=5, dtype=jnp.float32), jnp.asarray(oracle["x"])
  for layer in (0, 1):
    get = lambda name, layer=layer: jnp.asarray(oracle[f"uni.{name}_l{layer}"])
    gates = dict(kernel=get("weight_ih").T, bias=get("bias_ih") + get("bias_hh"))
    params = dict(gates=gates, recurrent=get("weight_hh").reshape(1, 4, 5, 5))
    state = ops.LSTMState(
      *(jnp.asarray(oracle[n][layer])[:, None] for n in ("h0", "c0"))
    )
    y, last = jax.jit(mixer.apply)({"params": params}, y, state)
    np.testing.assert_allclose(last.h[:, 0], oracle["h"][layer], atol=1e-6)
    np.testing.assert_allclose(last.c[:, 0], oracle["c"][layer], atol=1e-6)
  np.testing.assert_allclose(y, oracle["y"], atol=1e-6)


def test_forget_gates_begin_open():
  params = LSTM(features=6, num_heads=2).init(jax.random.key(0), jnp.ones((1, 2, 6)))
  bias = params["params"]["gates"]["bias"].value.reshape(2, 4, 3)
  np.testing.assert_array_equal(bias[:, 1], 1)
  np.testing.assert_array_equal(np.delete(bias, 1, axis=1), 0)


def test_heads_do_not_see_one_another():
  mixer = LSTM(features=6, num_heads=2, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(1), (1, 5, 6))
  params = jax.jit(mixer.init)(jax.random.key(0), x)
  state = mixer.initial_state(1)
  y, _ = jax.jit(mixer.apply)(params, x, state)
  z, _ = jax.jit(mixer.apply)(params, x, state._replace(h=state.h.at[:, 0].add(1.0)))
  np.testing.assert_array_equal(y[..., 3:], z[..., 3:])
  assert np.abs(y[..., :3] - z[..., :3]).max() > 1e-3
