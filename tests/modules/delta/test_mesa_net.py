import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.delta import MesaNet

X = jax.random.normal(jax.random.key(0), (1, 40, 64))


def test_thirty_steps_are_enough_at_first():
  """The number that the authors take."""
  exact = MesaNet(features=64, num_heads=1, dtype=jnp.float32)
  params = jax.jit(exact.init)(jax.random.key(1), X)
  y, _ = jax.jit(exact.apply)(params, X)
  run = lambda n: jax.jit(exact.clone(max_steps=n).apply)(params, X)[0]
  assert np.abs(run(2) - y).max() > 1e-3
  np.testing.assert_allclose(run(30), y, atol=1e-5)


def test_the_ridge_begins_at_one():
  params = MesaNet(features=64).init(jax.random.key(1), X)
  ridge = nn.softplus(nn.unbox(params)["params"]["ridge"]) + 0.25
  np.testing.assert_allclose(ridge, np.ones((4, 16)), rtol=1e-6)


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="MesaNet needs num_heads that divide .* = 32"):
    MesaNet(features=32, num_heads=5)
