import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.modules.conv import TNN, BidirectionalTNN

T, D = 7, 4
OPTIONS = dict(features=D, decay=0.8, encoder_width=6, encoder_layers=1)


def toeplitz(p, distances):
  """T by its definition, in numpy; distances [T, T] -> [T, T, 3D]."""
  linear = lambda name, z: z @ p[name]["kernel"] + p[name]["bias"]
  norm = lambda z: z / np.sqrt(np.mean(z**2, axis=-1, keepdims=True))
  z = linear("first", distances[..., None].astype(float))
  z = linear("hidden_0", np.maximum(norm(z), 0))
  z = linear("out", np.maximum(norm(z), 0))
  return 0.8 ** np.abs(distances)[..., None] * z


def expected(params, x, seen):
  p = jax.tree.map(np.float64, nn.unbox(params)["params"])
  silu = lambda z: z / (1 + np.exp(-z))
  u, v = (silu(x @ p[name]["kernel"] + p[name]["bias"]) for name in "uv")
  distances = np.arange(T)[:, None] - np.arange(T)
  matrix = toeplitz(p["encoder"], distances) * seen(distances)[..., None]
  o = u * np.einsum("tsd,sd->td", matrix, v)
  return o @ p["out"]["kernel"] + p["out"]["bias"]


def run(mixer):
  x = np.random.default_rng(0).normal(size=(1, T, D)).astype(np.float32)
  params = jax.jit(mixer.init)(jax.random.key(0), x)
  return params, x[0], jax.jit(mixer.apply)(params, x)[0][0]


def test_it_is_the_gated_product_with_a_toeplitz_matrix():
  params, x, y = run(TNN(**OPTIONS, max_length=5, dtype=jnp.float32))
  want = expected(params, x, lambda d: (d >= 0) & (d < 5))
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_the_bidirectional_unit_has_the_whole_matrix():
  params, x, y = run(BidirectionalTNN(**OPTIONS, dtype=jnp.float32))
  want = expected(params, x, lambda d: np.ones_like(d))
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
