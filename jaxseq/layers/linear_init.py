"""Initial weights of PyTorch's linear layers, which many papers keep.

W and b uniform in [-1, 1] / sqrt(fan_in)       W [fan_in, D]; depthwise [taps, D]
"""

import flax.linen as nn
import jax

__all__ = ["bias_init", "kernel_init"]

kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_init(fan_in: int) -> nn.initializers.Initializer:
  """Of a layer whose sums have `fan_in` terms."""
  bound = fan_in**-0.5

  def init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
