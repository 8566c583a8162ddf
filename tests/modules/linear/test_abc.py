import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import ABC


def test_slots_that_are_written_alike_hold_the_mean_of_all_tokens():
  mixer = ABC(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  params = nn.unbox(params)
  p = params["params"] | dict(slots=dict(kernel=jnp.zeros((32, 4 * 64))))
  y, state = jax.jit(mixer.apply)({"params": p}, x)
  v = x @ p["v"]["kernel"]
  mean = jnp.cumsum(v, axis=1) / jnp.arange(1, x.shape[1] + 1)[:, None]
  testing.assert_close(y, mean @ p["out"]["kernel"])
  np.testing.assert_allclose(state.log_weight, np.log(x.shape[1]), rtol=1e-6)


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="ABC needs num_heads"):
    ABC(features=32, num_heads=5)
