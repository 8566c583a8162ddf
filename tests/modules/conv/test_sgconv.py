import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.conv import BidirectionalSGConv, SGConv

OPTIONS = dict(features=3, max_length=20, kernel_size=4, dtype=jnp.float32)


def filters(p, name):
  """Pieces of 4, 4, 8 and 16 taps, the first 20 of 32; numpy's interpolation."""
  parts = []
  for i, (w, scale) in enumerate(zip(p[name], (1, 1, 2, 4))):
    place = (np.arange(4 * scale) + 0.5) / scale - 0.5
    up = [np.interp(place, np.arange(4), channel) for channel in w.T]
    parts.append(2.0 ** (3 - i) * np.stack(up, axis=1))
  return np.concatenate(parts)


@pytest.mark.parametrize("cls", [SGConv, BidirectionalSGConv])
def test_it_is_a_convolution_with_filters_of_many_scales(cls):
  T = 9
  x = np.random.default_rng(0).normal(size=(1, T, 3)).astype(np.float32)
  mixer = cls(**OPTIONS)
  params = jax.jit(mixer.init)(jax.random.key(0), x)
  y, _ = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(np.float64, nn.unbox(params)["params"])
  z = p["skip"] * x[0]
  names = ("forward",) if cls is SGConv else ("forward", "backward")
  for name in names:
    k = filters(p, name)
    np.testing.assert_allclose(p[f"{name}_norm"], np.linalg.norm(k, axis=0), rtol=1e-5)
    k = (k / np.linalg.norm(k, axis=0))[:20]
    if name == "backward":  # Its first tap is the next token's.
      k = np.concatenate([np.zeros((1, 3)), k])
    for t, s in np.ndindex(T, T):
      lag = t - s if name == "forward" else s - t
      z[t] += k[lag] * x[0, s] if lag >= 0 else 0
  gelu = z * (1 + np.vectorize(math.erf)(z / 2**0.5)) / 2
  want = gelu @ p["out"]["kernel"] + p["out"]["bias"]
  np.testing.assert_allclose(y[0], want, rtol=1e-4, atol=1e-5)


def test_pieces_longer_than_the_filter_are_refused():
  with pytest.raises(ValueError, match="kernel_size <= max_length = 20; got 32"):
    SGConv(features=3, max_length=20, kernel_size=32)
