import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.rnn import GRU

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "torch_gru.npz"


def test_it_is_the_layer_of_torch_with_its_gradients():
  oracle = np.load(ORACLE)
  mixer = GRU(features=5, dtype=jnp.float32)
  get = lambda name: jnp.asarray(oracle[f"{name}_l0"])

  def run(x, W, R, b, c):
    params = dict(
      gates=dict(kernel=W.T, bias=b + c.at[10:].set(0)),
      recurrent=R.reshape(1, 3, 5, 5),
      recurrent_bias=c[None, 10:],
    )
    h0 = jnp.asarray(oracle["h0"]).swapaxes(0, 1)
    return mixer.apply({"params": params}, x, h0)

  names = "weight_ih", "weight_hh", "bias_ih", "bias_hh"
  args = jnp.asarray(oracle["x"]), *map(get, names)
  y, pullback, last = jax.vjp(jax.jit(run), *args, has_aux=True)
  np.testing.assert_allclose(y, oracle["y"], atol=1e-6)
  np.testing.assert_allclose(last[:, 0], oracle["h"][0], atol=1e-6)
  grads = pullback(jnp.asarray(oracle["cot_y"]))
  for name, got in zip(("x", *(f"{name}_l0" for name in names)), grads):
    np.testing.assert_allclose(got, oracle[f"grad_{name}"], atol=1e-5)


def test_with_the_reset_before_the_product_it_keeps_the_contract():
  mixer = GRU(features=32, num_heads=2, reset="before", dtype=jnp.float32)
  params = nn.unbox(testing.example(mixer)[0])["params"]
  assert set(params) == {"gates", "recurrent"}
  testing.padding_is_ignored_whatever_it_holds(mixer)
  testing.bfloat16_is_near_float32(mixer)


def test_a_reset_elsewhere_is_named():
  with pytest.raises(ValueError, match="GRU needs reset in .* got 'never'"):
    GRU(features=32, reset="never")
