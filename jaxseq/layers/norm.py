"""Normalisation over the last axis."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

__all__ = ["RMSNorm", "l2_normalize"]


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


def l2_normalize(x, epsilon: float = 1e-6):
  """x / sqrt(sum(x^2) + eps) over the last axis, in float32."""
  y = x.astype(jnp.float32)
  return y * jax.lax.rsqrt(jnp.sum(y * y, axis=-1, keepdims=True) + epsilon)
