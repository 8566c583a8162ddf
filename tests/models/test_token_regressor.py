import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import models

CONFIG = models.BackboneConfig(
  features=16, num_layers=1, pattern=("min_gru",), mlp="none", dtype=jnp.float32
)


def test_outputs_at_a_token_are_of_it_and_those_before():
  model = models.TokenRegressor(CONFIG, num_outputs=2)
  x = jax.random.normal(jax.random.key(0), (3, 11, 5))
  params = model.init(jax.random.key(1), x)
  apply = jax.jit(model.apply)
  whole, _ = apply(params, x)
  head, state = apply(params, x[:, :7])
  tail, _ = apply(params, x[:, 7:], state)
  assert whole.shape == (3, 11, 2) and whole.dtype == jnp.float32
  np.testing.assert_allclose(jnp.hstack([head, tail]), whole, atol=1e-5)
  weights = jnp.zeros((3, 11)).at[:, 4].set(1)
  batch = dict(inputs=x, targets=whole + 2, weights=weights)
  batch["segment_ids"] = jnp.ones((3, 11), jnp.int32)
  loss, sums = model.apply(params, batch, method="loss")
  np.testing.assert_allclose([loss, sums["weight"]], [12, 3], rtol=1e-5)
  with pytest.raises(ValueError, match=r"targets \[B, T, O\] = \(3, 11, 2\); got"):
    model.apply(params, batch | {"targets": whole[:, 0]}, method="loss")


def test_a_mixer_that_sees_the_future_is_refused():
  config = models.BackboneConfig(features=16, num_layers=1, pattern=("fnet",))
  with pytest.raises(ValueError, match="needs causal mixers; fnet sees"):
    models.TokenRegressor(config, num_outputs=2)
