import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import ops
from jaxseq.layers import feature_maps

ORACLES = pathlib.Path(__file__).parents[1] / "oracles"


def heads_last(oracle, *names):
  """[B, H, T, K] -> [B, T, H, K]."""
  return [jnp.asarray(oracle[name]).swapaxes(1, 2) for name in names]


def kernel(phi_q, phi_k):
  return jnp.einsum("...if,...jf->...ij", phi_q, phi_k, precision="highest")


def two(size, rows=6):
  return jax.random.normal(jax.random.key(size), (2, rows, size))


def test_taylor_features_give_the_numbers_of_based():
  oracle = np.load(ORACLES / "fla_based.npz")
  q, k, v, cotangent = heads_last(oracle, "q", "k", "v", "cot_o")

  def run(q, k, v):
    q, k = feature_maps.taylor(q), feature_maps.taylor(k)
    return ops.normalized_linear_attention(q, k, v, scale=1.0)[0]

  o, pullback = jax.vjp(jax.jit(run), q, k, v)
  want, *grads = heads_last(oracle, "o", "grad_q", "grad_k", "grad_v")
  np.testing.assert_allclose(o, want, rtol=1e-5, atol=1e-5)
  for got, want in zip(pullback(cotangent), grads):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_positive_and_rectified_features_give_the_numbers_of_performer_pytorch():
  oracle = np.load(ORACLES / "performer.npz")
  q, k, v = heads_last(oracle, "q", "k", "v")
  W = jnp.asarray(oracle["projection_matrix"])
  project = lambda x: jnp.einsum("...k,mk->...m", x * 8**-0.25, W, precision="highest")
  # Its stabilisers: the keys' is a maximum over the sequence.
  largest = lambda x, axes: jnp.max(project(x), axis=axes, keepdims=True)
  positive = [
    feature_maps.favor_plus(q, W, largest(q, -1)),
    feature_maps.favor_plus(k, W, largest(k, (1, 3))),
  ]
  rectified = [feature_maps.relu(project(x), 1e-3) for x in (q, k)]
  # It begins each sum of keys at 1e-6.
  state = ops.LinearAttentionState(jnp.zeros((1, 2, 12, 8)), jnp.full((1, 2, 12), 1e-6))
  for name, features in [("y_causal", positive), ("y_relu_causal", rectified)]:
    o, _ = ops.normalized_linear_attention(
      *features, v, initial_state=state, scale=1.0, epsilon=0.0
    )
    (want,) = heads_last(oracle, name)
    np.testing.assert_allclose(o, want, rtol=1e-5, atol=1e-5)


def test_exact_maps_are_their_kernels():
  q, k = two(8)
  s = q @ k.T / 8**0.5
  got = kernel(feature_maps.taylor(q), feature_maps.taylor(k))
  np.testing.assert_allclose(got, 1 + s + s**2 / 2, rtol=1e-4, atol=1e-5)
  got = kernel(feature_maps.quadratic(q), feature_maps.quadratic(k))
  np.testing.assert_allclose(got, s**2, rtol=1e-4, atol=1e-5)


def test_random_features_are_unbiased_estimates():
  q, k = 0.6 * two(4)  # The variance grows as exp(|q + k|^2).
  W = feature_maps.orthogonal_projection(0, 100_000, 4)
  got = kernel(feature_maps.favor_plus(q, W), feature_maps.favor_plus(k, W))
  np.testing.assert_allclose(got, np.exp(q @ k.T / 2), rtol=0.03)
  W = feature_maps.gaussian_projection(0, 1, 100_000, 4)
  fourier = lambda x: feature_maps.random_fourier(x[:, None], W)[:, 0]
  squares = np.sum((q[:, None] - k) ** 2, axis=-1)
  np.testing.assert_allclose(
    kernel(fourier(q), fourier(k)), np.exp(-squares / 2), atol=0.01
  )


def test_a_shift_cancels_and_prevents_overflow():
  W = feature_maps.orthogonal_projection(0, 16, 8)
  x = 4 * two(8)[0]
  plain = feature_maps.favor_plus(x, W, epsilon=0.0)
  shifted = feature_maps.favor_plus(x, W, shift=None, epsilon=0.0)
  share = lambda y: y / y.sum(-1, keepdims=True)
  np.testing.assert_allclose(share(shifted), share(plain), rtol=1e-4)
  np.testing.assert_allclose(shifted.max(-1), 0.25, rtol=1e-6)  # 16^-1/2
  W = feature_maps.orthogonal_projection(0, 256, 256)
  largest = feature_maps.favor_plus(jnp.asarray(W) * 256**0.25, W).max()
  np.testing.assert_allclose(largest, np.exp(60) / 16, rtol=1e-4)  # And not exp(128).


def test_projections_are_orthogonal_in_blocks_and_depend_on_the_seed_alone():
  W = feature_maps.orthogonal_projection(3, 12, 8)
  for block in (W[:8], W[8:]):
    products = block @ block.T
    np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-5)
  np.testing.assert_array_equal(W, feature_maps.orthogonal_projection(3, 12, 8))
  assert (W != feature_maps.orthogonal_projection(4, 12, 8)).all()


def test_reweighting_is_the_cosine_of_the_distance():
  q, k = (x[None, :, None] for x in two(8))
  place = jnp.array([[0, 3, 4, 7, 11, 40]])
  q_cos, k_cos = (feature_maps.cosine_reweighting(x, place, 20) for x in (q, k))
  got = kernel(q_cos[0, :, 0], k_cos[0, :, 0])
  cosine = np.cos(np.pi / 40 * (place[0][:, None] - place[0]))
  want = cosine * kernel(q[0, :, 0], k[0, :, 0])
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert cosine[0, -1] < 0  # Further than 20 tokens.


def test_elu_plus_one_is_positive_where_elu_would_round_to_minus_one():
  x = jnp.array([-40.0, -1.0, 0.0, 2.0])
  got = feature_maps.elu_plus_one(x)
  np.testing.assert_allclose(got, [np.exp(-40), np.exp(-1), 1, 3], rtol=1e-6)
  slopes = jax.vmap(jax.grad(feature_maps.elu_plus_one))(x)
  np.testing.assert_allclose(slopes, [np.exp(-40), np.exp(-1), 1, 1], rtol=1e-6)


def test_hedgehog_begins_with_the_softmax_of_the_channels_and_of_their_negatives():
  x = two(8)[:, None]
  module = feature_maps.Hedgehog()
  phi = module.apply(module.init(jax.random.key(0), x), x)
  want = np.concatenate([jax.nn.softmax(x), jax.nn.softmax(-x)], axis=-1)
  np.testing.assert_allclose(phi, want, rtol=1e-5)
