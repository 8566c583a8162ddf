"""Hyena's long filters, made by a small network (Poli et al. 2023, arXiv:2302.10866).

    h_t = exp(-alpha t / (L - 1)) * MLP(t / (L - 1), cos(f w_t), -sin(f w_t))
    w_t = 2 pi t / L,    t = 0 .. L-1                                        (sec. 3.3)

The network's activation is sin(a x), a learned, one number a hidden unit, the same in
all its layers as in the authors' code. The decays alpha are fixed: over the channels
they are spread evenly between those that leave 1 % of the filter after 0.3 L and after
1.5 L.
"""

import functools
import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseq.layers import linear_init

__all__ = ["ImplicitFilter"]


class ImplicitFilter(nn.Module):
  """Filters whose number of parameters does not depend on their length.

  Attributes:
    num_channels: Filters N.
    length: Taps L. The window and the features are stretched to it.
    width: Hidden units.
    num_bands: Frequencies f of the features, evenly from 0 to their number less one.
    sine_frequency: Initial a.
    num_hidden: Hidden layers after the first.
    param_dtype: Of the parameters. All sums are float32.
  """

  num_channels: int
  length: int
  width: int = 64
  num_bands: int = 2
  sine_frequency: float = 10.0
  num_hidden: int = 2
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self) -> Float[Array, "L N"]:
    init = nn.initializers.constant(self.sine_frequency)
    init = nn.with_logical_partitioning(init, (None,))
    a = self.param("frequency", init, (self.width,), self.param_dtype)
    h = jnp.asarray(_features(self.length, self.num_bands))
    for i in range(1 + self.num_hidden):
      h = jnp.sin(a * self._linear(f"hidden_{i}", h, self.width))
    h = self._linear("out", h, self.num_channels, "heads", use_bias=False)
    return jnp.exp(-_decays(self.length, self.num_channels)) * h

  def _linear(self, name, x, size, axis=None, use_bias=True):
    fan_in = x.shape[-1]
    init = nn.with_logical_partitioning(linear_init.kernel_init, (None, axis))
    W = self.param(name, init, (fan_in, size), self.param_dtype)
    y = jnp.dot(x, W, precision="highest")
    if use_bias:
      init = nn.with_logical_partitioning(linear_init.bias_init(fan_in), (axis,))
      y = y + self.param(f"{name}_bias", init, (size,), self.param_dtype)
    return y


@functools.cache
def _features(length, num_bands):
  """[L, 1 + 2 bands]."""
  t = np.linspace(0, 1, length)[:, None]
  angle = 2 * math.pi * np.arange(length)[:, None] / length
  angle = angle * np.linspace(1e-4, num_bands - 1, num_bands)
  return np.concatenate([t, np.cos(angle), -np.sin(angle)], axis=1).astype(np.float32)


@functools.cache
def _decays(length, num_channels):
  """[L, N], the logarithms."""
  rates = -math.log(0.01) / np.array([1.5, 0.3])
  alpha = np.linspace(*rates, num_channels)
  return (np.linspace(0, 1, length)[:, None] * alpha).astype(np.float32)
