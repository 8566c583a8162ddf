import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.conv import GAM

MIXER = GAM(features=8, num_slots=5, kernel_size=4, dtype=jnp.float32)


def test_it_is_the_equation_of_the_paper():
  params, x = nn.unbox(testing.example(MIXER, length=9))
  y, _ = jax.jit(MIXER.apply)(params, x)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
  x = np.asarray(x, np.float64)
  conv = np.zeros(x.shape) + p["conv_bias"]
  for t, lag in np.ndindex(9, 4):
    if t >= lag:
      conv[:, t] += p["conv"][3 - lag] * x[:, t - lag]
  scores = np.exp(x @ p["bank"].T)
  read = scores / scores.sum(-1, keepdims=True) @ p["bank"]
  gates = 1 / (1 + np.exp(-(x @ p["gates"]["kernel"] + p["gates"]["bias"])))
  testing.assert_close(y, gates[..., :8] * conv + gates[..., 8:] * read)


def test_a_token_sees_no_further_back_than_the_convolution():
  params, x = testing.example(MIXER, length=9)
  last = lambda x: jnp.sum(MIXER.apply(params, x)[0][:, -1])
  sees = np.any(jax.jit(jax.grad(last))(x) != 0, axis=(0, 2))
  np.testing.assert_array_equal(sees, np.arange(9) >= 5)


def test_wrong_attributes_are_named():
  for count in ("num_slots", "kernel_size"):
    with pytest.raises(ValueError, match=f"GAM needs {count} >= 1; got 0"):
      GAM(features=8, **{count: 0})
