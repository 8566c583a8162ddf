import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.conv import TCNCA


class Convolutions(TCNCA):
  """What stands before the attention."""

  @nn.compact
  def __call__(self, x):
    return self._move(x, None, None)[0]


def test_the_convolutions_see_as_far_back_as_their_dilations_add_up_to():
  mixer = Convolutions(features=4, num_convs=3, kernel_size=3, dilation=2)
  x = jax.random.normal(jax.random.key(1), (1, 24, 4))
  params = mixer.init(jax.random.key(0), x)
  sees = jax.jit(jax.grad(lambda x: mixer.apply(params, x)[0, -1].sum()))(x)
  # 1 + 2 (1 + 2 + 4) tokens.
  np.testing.assert_array_equal(np.any(sees[0] != 0, axis=-1), np.arange(24) >= 24 - 15)
  assert sum(mixer.histories) == 14


def test_they_are_the_equation():
  mixer = Convolutions(features=3, num_convs=2, kernel_size=4, dilation=3)
  x = np.random.default_rng(0).normal(size=(1, 17, 3)).astype(np.float32)
  params = nn.unbox(mixer.init(jax.random.key(0), x))
  params["params"]["conv_bias_1"] = jnp.arange(3.0)
  got = mixer.apply(params, x)
  p = {name: np.asarray(value) for name, value in params["params"].items()}
  u = x
  for layer in range(2):
    y = p[f"conv_bias_{layer}"] + np.zeros_like(u)
    for t in range(17):
      for k in range(4):
        if t - k * 3**layer >= 0:
          y[:, t] += p[f"conv_{layer}"][3 - k] * u[:, t - k * 3**layer]
    u = u + y / (1 + np.exp(-y))
  np.testing.assert_allclose(got, u, rtol=1e-4, atol=1e-5)


def test_wrong_attributes_are_named():
  for count in ("num_convs", "kernel_size", "dilation", "chunk_size"):
    with pytest.raises(ValueError, match=f"TCNCA needs {count} >= 1; got 0"):
      TCNCA(features=8, **{count: 0})
