"""Normalisation over the last axis."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

__all__ = ["HeadNorm", "RMSNorm", "l2_normalize"]


class RMSNorm(nn.Module):
  """y = x / sqrt(mean(x^2) + eps) * scale (Zhang & Sennrich 2019, arXiv:1910.07467).

  Attributes:
    epsilon: Added to the mean square.
    use_scale: Whether there is a learned scale.
    axes: Logical name of the scale's axis.
    param_dtype: Of the scale. The norm is float32; the output has the input's dtype.
  """

  epsilon: float = 1e-6
  use_scale: bool = True
  axes: tuple[str | None] = ("embed",)
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x):
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
    if self.use_scale:
      ones = nn.with_logical_partitioning(nn.initializers.ones, self.axes)
      y = y * self.param("scale", ones, (x.shape[-1],), self.param_dtype)
    return y.astype(x.dtype)


class HeadNorm(nn.Module):
  """The layer norm of each head, with one scale for each channel of all heads.

  That is a group norm of each token (Wu & He 2018, arXiv:1803.08494), a group a head.

  Attributes:
    epsilon: Added to the variance.
    use_bias: Whether there is a learned bias.
    param_dtype: Of the parameters. The norm is float32; the output has the input's
      dtype.
  """

  epsilon: float = 1e-5
  use_bias: bool = False
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "... H V"]) -> Float[Array, "... HV"]:
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
    y = y.reshape(*x.shape[:-2], -1)
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("heads",))
    y = y * self.param("scale", ones, y.shape[-1:], self.param_dtype)
    if self.use_bias:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("heads",))
      y = y + self.param("bias", zeros, y.shape[-1:], self.param_dtype)
    return y.astype(x.dtype)


def l2_normalize(x, epsilon: float = 1e-6):
  """x / sqrt(sum(x^2) + eps) over the last axis, in float32."""
  y = x.astype(jnp.float32)
  return y * jax.lax.rsqrt(jnp.sum(y * y, axis=-1, keepdims=True) + epsilon)
