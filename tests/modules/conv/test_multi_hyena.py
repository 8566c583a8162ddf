import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import layers
from jaxseq.modules.conv import MultiHyena


def test_a_head_convolves_its_outer_products_with_one_filter():
  T, D, L = 7, 6, 5
  mixer = MultiHyena(
    features=D, head_size=3, max_length=L, filter_width=8, dtype=jnp.float32
  )
  x = np.random.default_rng(0).normal(size=(1, T, D)).astype(np.float32)
  params = nn.unbox(jax.jit(mixer.init)(jax.random.key(0), x))
  y, _ = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(np.float64, params["params"])
  h = layers.ImplicitFilter(2, L, width=8).apply({"params": p["filter"]})
  h = np.array(h, np.float64)
  h[0] += p["skip"]
  u = x[0] @ p["in"]["kernel"] + p["in"]["bias"]
  before = np.concatenate([np.zeros((2, 3 * D)), u])
  u = sum(w * before[i : i + T] for i, w in enumerate(p["conv"])) + p["conv_bias"]
  q, k, v = u.reshape(T, 3, 2, 3).swapaxes(0, 1)
  o = np.zeros((T, 2, 3))
  for t in range(T):
    for lag in range(min(t + 1, L)):
      z = np.einsum("hk,hv->hkv", k[t - lag], v[t - lag])
      o[t] += h[lag][:, None] * np.einsum("hkv,hk->hv", z, q[t])
  want = o.reshape(T, D) @ p["out"]["kernel"] + p["out"]["bias"]
  np.testing.assert_allclose(y[0], want, rtol=1e-4, atol=1e-5)


def test_a_head_size_that_does_not_divide_is_named():
  with pytest.raises(ValueError, match="divides features = 32; got 5"):
    MultiHyena(features=32, head_size=5)
