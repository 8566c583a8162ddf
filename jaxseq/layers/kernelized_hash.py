"""Binary codes by kernelised hash functions (Liu et al. 2012, CVPR).

h_r(x) = sign(sum_s A_rs (kappa(x, a_s) - mu_s)),   kappa(x, a) = exp(-|x - a|^2 / 2 w)

The anchors a, the means mu of kappa and the bandwidth w are those of a sample of the
data. A is learned from the sample, bit by bit: tokens that attend to one another most
shall have the same code, those that do least the opposite one (EcoFormer, Liu et al.
2022, arXiv:2209.09004).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

__all__ = ["KernelizedHash", "learn_hash"]

# The authors': gradient descent with Nesterov's momentum, for each bit.
LEARNING_RATE, MOMENTUM, STEPS = 5e-4, 0.9, 100


class KernelizedHash(nn.Module):
  """Codes of -1 and 1 for vectors of length one.

  Its parameters are not trained by gradients, which pass it to x alone: through the
  sign as if it were the identity, where |y| < 1. Until `learn_hash` has found better
  ones the functions are random.

  Attributes:
    num_bits: Bits of a code.
    num_anchors: Anchors.
    param_dtype: Of the parameters.
  """

  num_bits: int = 16
  num_anchors: int = 25
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "... H K"]) -> Float[Array, "... H num_bits"]:
    H, K = x.shape[-2:]

    def fixed(name, init, *shape):
      axes = ("heads", *[None] * len(shape))
      init = nn.with_logical_partitioning(init, axes)
      value = self.param(name, init, (H, *shape), self.param_dtype)
      return jax.lax.stop_gradient(value)

    # Of vectors in all directions: |x - a|^2 is 2, give or take.
    anchors = fixed("anchors", _directions, self.num_anchors, K)
    bandwidth = fixed("bandwidth", nn.initializers.constant(2.0))
    mean = fixed("mean", nn.initializers.constant(math.exp(-1 / 2)), self.num_anchors)
    A = fixed("weights", nn.initializers.normal(1.0), self.num_bits, self.num_anchors)
    centred = _kernels(x, anchors, bandwidth) - mean
    y = jnp.einsum("...hs,hrs->...hr", centred, A, precision="highest")
    near = jnp.clip(y, -1, 1)
    return near - jax.lax.stop_gradient(near) + jax.lax.stop_gradient(_sign(y))


def learn_hash(
  x: Float[Array, "B T H K"],
  key: Array,
  *,
  num_bits: int = 16,
  num_anchors: int = 25,
  num_pairs: int = 10,
) -> dict[str, Array]:
  """Hash functions whose codes are alike where x_i^T x_j is among the largest.

  With S_ij = 1 for the `num_pairs` tokens j most like i, -1 for as many that are least
  so, else 0, bit r maximises y_r^T (num_bits S - sum_{p<r} y_p y_p^T) y_r over its
  values y_r for the tokens of a sequence. That is done with 2 sigmoid(y) - 1 for the
  sign of y, and kept if it is better than what it began with.

  Args:
    x: A sample, of length one.
    key: For the anchors and the first weights.
    num_bits: Bits of a code.
    num_anchors: Anchors: tokens of the first sequence.
    num_pairs: Of each kind, for each token.

  Returns:
    The parameters of `KernelizedHash`.

  Raises:
    ValueError: If sequences have fewer tokens than anchors or pairs.
  """
  B, T, H, K = x.shape
  if T < max(num_anchors, 2 * num_pairs):
    raise ValueError(
      f"learn_hash needs sequences of at least {max(num_anchors, 2 * num_pairs)} "
      f"tokens, for {num_anchors} anchors and 2 x {num_pairs} pairs; got {T}"
    )
  of_anchors, of_weights = jax.random.split(key)
  chosen = jax.random.permutation(of_anchors, T)[:num_anchors]
  anchors = jnp.moveaxis(x[0, chosen], 1, 0)
  bandwidth = jnp.mean(_square_distances(x, anchors), axis=(0, 1, 3))
  kernels = _kernels(x, anchors, bandwidth)
  mean = jnp.mean(kernels, axis=(0, 1))
  centred = kernels - mean

  def values(a, squash):
    return squash(jnp.einsum("bths,hs->bht", centred, a, precision="highest"))

  def agreement(y, S):  # Of each head.
    Sy = jnp.einsum("bhts,bhs->bht", S, y, precision="highest")
    return jnp.mean(jnp.sum(y * Sy, axis=-1), axis=0) / (T * num_bits)

  def learn_bit(S, first):
    relaxed = lambda a: -jnp.mean(agreement(values(a, lambda y: jnp.tanh(y / 2)), S))

    def descend(carry, _):
      a, velocity = carry
      gradient = jax.grad(relaxed)(a)
      velocity = MOMENTUM * velocity + gradient
      return (a - LEARNING_RATE * (gradient + MOMENTUM * velocity), velocity), None

    start = (first, jnp.zeros_like(first))
    (last, _), _ = jax.lax.scan(descend, start, length=STEPS)
    better = agreement(values(last, _sign), S) > agreement(values(first, _sign), S)
    a = jnp.where(better[:, None], last, first)
    y = values(a, _sign)
    return S - y[..., :, None] * y[..., None, :], a

  first = jax.random.normal(of_weights, (num_bits, H, num_anchors))
  _, weights = jax.lax.scan(learn_bit, num_bits * _pairs(x, num_pairs), first)
  return dict(
    anchors=anchors,
    bandwidth=bandwidth,
    mean=mean,
    weights=jnp.moveaxis(weights, 0, 1),
  )


def _pairs(x, number):
  """S of `learn_hash`, [B, H, T, T]."""
  products = jnp.einsum("bthk,bshk->bhts", x, x, precision="highest")
  T = products.shape[-1]
  chosen = lambda y: jax.nn.one_hot(jax.lax.top_k(y, number)[1], T).sum(axis=-2)
  return chosen(products) - chosen(-products)


def _square_distances(x, anchors):
  """|x - a|^2, [..., H, K] and [H, S, K] -> [..., H, S]."""
  product = jnp.einsum("...hk,hsk->...hs", x, anchors, precision="highest")
  square = lambda y: jnp.sum(y * y, axis=-1)
  return square(x)[..., None] - 2 * product + square(anchors)


def _kernels(x, anchors, bandwidth):
  return jnp.exp(-_square_distances(x, anchors) / (2 * bandwidth[:, None]))


def _sign(y):
  """1 or -1, never 0."""
  return jnp.where(y > 0, 1.0, -1.0).astype(y.dtype)


def _directions(key, shape, dtype):
  x = jax.random.normal(key, shape, dtype)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
