import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import BidirectionalLightNet, LightNet

OPTIONS = dict(features=32, gate_rank=8, dtype=jnp.float32)


def test_the_last_token_sees_what_all_see_in_both_directions():
  """Without positions."""
  params, x = testing.example(LightNet(**OPTIONS))
  params = nn.unbox(params)["params"]
  both = {"params": params | {"theta": jnp.zeros((4, 8))}}
  want, _ = jax.jit(BidirectionalLightNet(**OPTIONS).apply)(both, x)
  y, _ = jax.jit(LightNet(**OPTIONS).apply)({"params": params}, x)
  np.testing.assert_allclose(y[:, -1], want[:, -1], rtol=1e-4, atol=1e-5)
  assert np.abs(y[:, 0] - want[:, 0]).max() > 1e-3


def test_the_rows_and_columns_of_an_image_may_change_places():
  """As dimensions do with their channels."""
  module = BidirectionalLightNet(**OPTIONS, grid=(3, 5))
  x = jax.random.normal(jax.random.key(0), (1, 15, 32))
  params = nn.unbox(jax.jit(module.init)(jax.random.key(1), x))
  y, _ = jax.jit(module.apply)(params, x)
  swap = lambda W: W.reshape(32, 4, 2, 4)[:, :, ::-1].reshape(32, 32)
  for name in "qk":
    params["params"][name]["kernel"] = swap(params["params"][name]["kernel"])
  turn = lambda x, *grid: x.reshape(1, *grid, 32).swapaxes(1, 2).reshape(1, 15, 32)
  other = BidirectionalLightNet(**OPTIONS, grid=(5, 3))
  z, _ = jax.jit(other.apply)(params, turn(x, 3, 5))
  np.testing.assert_allclose(turn(z, 5, 3), y, rtol=1e-4, atol=1e-5)


def test_a_grid_of_other_tokens_is_named():
  module = BidirectionalLightNet(**OPTIONS, grid=(3, 5))
  with pytest.raises(ValueError, match="3 x 5 tokens of its grid; got 16"):
    jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 16, 32)))
