"""Feature maps of linear attention: kernels as products of features.

    kernel(q, k) = phi(q)^T phi(k)       the weight of a key for a query, unnormalised

Each maps the last axis, computes in float32 and returns the dtype of its input. Where a
kernel has a scale, such as K^-1/2, it is in the map.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

__all__ = [
  "Hedgehog",
  "cosine_reweighting",
  "elu_plus_one",
  "favor_plus",
  "gaussian_projection",
  "orthogonal_projection",
  "quadratic",
  "random_fourier",
  "relu",
  "taylor",
]


def elu_plus_one(x: Float[Array, "... K"]) -> Float[Array, "... K"]:
  """phi(x) = elu(x) + 1 (Katharopoulos et al. 2020, arXiv:2006.16236, eq. 7)."""
  # As exp(x) where x < 0: elu(x) + 1 loses small features to rounding.
  y = _wide(x)
  return jnp.where(y > 0, y + 1, jnp.exp(jnp.where(y > 0, 0, y))).astype(x.dtype)


def relu(x: Float[Array, "... K"], epsilon: float = 0.0) -> Float[Array, "... K"]:
  """phi(x) = max(x, 0) + epsilon (Performer-ReLU, arXiv:2009.14794, with 1e-3)."""
  return jax.nn.relu(x) + jnp.asarray(epsilon, x.dtype)


def taylor(x: Float[Array, "... K"]) -> Float[Array, "... F"]:
  """Features of 1 + s + s^2 / 2 at s = q^T k / sqrt(K), positive and near exp(s).

  Second-order Taylor features (Based, Arora et al. 2024, arXiv:2402.18668, sec. 4.1).
  F = 1 + K + K (K + 1) / 2: each product of two channels stands once, not twice.
  """
  y = _wide(x) * x.shape[-1] ** -0.25
  ones = jnp.ones_like(y[..., :1])
  features = [ones, y, _products(y) * math.sqrt(0.5)]
  return jnp.concatenate(features, axis=-1).astype(x.dtype)


def quadratic(x: Float[Array, "... K"]) -> Float[Array, "... F"]:
  """Features of (q^T k)^2 / K, F = K (K + 1) / 2 (ReBased, arXiv:2402.10644)."""
  return _products(_wide(x) * x.shape[-1] ** -0.25).astype(x.dtype)


def _products(x: Float[Array, "... K"]) -> Float[Array, "... F"]:
  """Features of (q^T k)^2: x_i^2, and sqrt(2) x_i x_j for i < j."""
  i, j = np.triu_indices(x.shape[-1])
  return x[..., i] * x[..., j] * np.where(i == j, 1, math.sqrt(2)).astype(x.dtype)


def favor_plus(
  x: Float[Array, "... K"],
  projection: Float[Array, "M K"],
  shift: Float[Array, "... 1"] | float | None = 0.0,
  epsilon: float = 1e-4,
) -> Float[Array, "... M"]:
  """Positive random features of exp(q^T k / sqrt(K)), unbiased.

  phi(x) = M^-1/2 (exp(w_m^T y - |y|^2 / 2 - shift) + epsilon),    y = x K^-1/4

  (FAVOR+, Choromanski et al. 2020, arXiv:2009.14794, lemma 1 and sec. 3). An exponent
  is at most |w_m|^2 / 2, about K / 2. Above 60 it is cut, so that sums stay finite.

  Args:
    x: Queries or keys.
    projection: Rows w, as drawn by `orthogonal_projection`.
    shift: Taken off the exponents against overflow. It cancels in normalised attention
      if it is the same number for all keys that a query sees. None is each token's own
      largest exponent, for queries.
    epsilon: Keeps features away from zero.
  """
  y = _wide(x) * x.shape[-1] ** -0.25
  exponents = jnp.einsum("...k,mk->...m", y, projection, precision="highest")
  exponents -= jnp.sum(y * y, axis=-1, keepdims=True) / 2
  if shift is None:
    shift = jax.lax.stop_gradient(jnp.max(exponents, axis=-1, keepdims=True))
  features = jnp.exp(jnp.minimum(exponents - shift, 60.0)) + epsilon
  return (features * projection.shape[0] ** -0.5).astype(x.dtype)


def random_fourier(
  x: Float[Array, "... H K"], projection: Float[Array, "H M K"]
) -> Float[Array, "... H 2M"]:
  """Random features of the Gaussian kernel exp(-|q - k|^2 / 2), unbiased.

  phi(x) = M^-1/2 [sin(W x), cos(W x)]

  (Rahimi & Recht 2007; for attention Peng et al. 2021, arXiv:2103.02143, eq. 4). Where
  q and k have norm one it is exp(q^T k) up to a factor. Features may be negative.

  Args:
    x: Queries or keys.
    projection: W of each head, normal numbers.
  """
  phase = jnp.einsum("...hk,hmk->...hm", _wide(x), projection, precision="highest")
  features = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)
  return (features * projection.shape[1] ** -0.5).astype(x.dtype)


def cosine_reweighting(
  features: Float[Array, "B T H K"], positions: Int[Array, "B T"], length: int
) -> Float[Array, "B T H 2K"]:
  """Weighs a kernel by cos(pi (i - j) / 2M): the nearer, the more.

  (cosFormer, Qin et al. 2022, arXiv:2202.08791, eq. 10.) As cos(a - b) is a product of
  [cos a, sin a] and [cos b, sin b], features are doubled.

  Args:
    features: Of queries or keys.
    positions: Place of each token in its document.
    length: M. Tokens further apart have negative weights.
  """
  angle = (positions.astype(jnp.float32) * (math.pi / 2 / length))[..., None, None]
  y = _wide(features)
  y = jnp.concatenate([y * jnp.cos(angle), y * jnp.sin(angle)], axis=-1)
  return y.astype(features.dtype)


class Hedgehog(nn.Module):
  """phi(x) = [softmax(W x), softmax(-W x)], W learned for each head.

  (Zhang et al. 2024, arXiv:2402.04347, sec. 4.1; the softmax over features is their
  stable form of exp.) W begins as the identity. Features are at least `epsilon`.

  Attributes:
    epsilon: The least value of a feature.
    param_dtype: Of W.
  """

  epsilon: float = 1e-12
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "... H K"]) -> Float[Array, "... H 2K"]:
    H, K = x.shape[-2:]
    init = nn.with_logical_partitioning(_identity, ("heads", None, None))
    W = self.param("kernel", init, (H, K, K), self.param_dtype)
    y = jnp.einsum("...hk,hkf->...hf", x, W.astype(x.dtype))
    y = _wide(y)
    y = jnp.concatenate([jax.nn.softmax(y), jax.nn.softmax(-y)], axis=-1)
    return jnp.maximum(y, self.epsilon).astype(x.dtype)


def _identity(key, shape, dtype):
  return jnp.broadcast_to(jnp.eye(shape[1], dtype=dtype), shape)


def gaussian_projection(seed: int, *shape: int) -> Float[np.ndarray, "..."]:
  """Normal numbers that depend on the seed alone: a constant, not a parameter."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def orthogonal_projection(seed: int, rows: int, size: int) -> Float[np.ndarray, "M K"]:
  """Rows w that are normal each, and orthogonal in blocks of `size` rows.

  The features' variance is less than that of independent rows (FAVOR+, sec. 3.2).
  """
  rng = np.random.default_rng(seed)
  blocks = [_rotation(rng, size) for _ in range(0, rows, size)]
  norms = np.linalg.norm(rng.normal(size=(rows, size)), axis=-1, keepdims=True)
  return (np.concatenate(blocks)[:rows] * norms).astype(np.float32)


def _rotation(rng, size):
  """Uniform among the orthogonal matrices. The signs of a QR alone would not be."""
  Q, R = np.linalg.qr(rng.normal(size=(size, size)))
  return Q * np.sign(np.diag(R))


def _wide(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
