"""The gated linear unit."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseq.layers.projection import projection

__all__ = ["GLU"]


class GLU(nn.Module):
  """y = (x W + b) * sigmoid(x V + c) (Dauphin et al. 2017, arXiv:1612.08083, eq. 1).

  Attributes:
    features: Width of input and output.
    dtype: Of the products.
    param_dtype: Of the parameters.
  """

  features: int
  dtype: DTypeLike = jnp.bfloat16
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    value, gate = (
      projection(
        self.features,
        ("embed", "embed_out"),
        use_bias=True,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(x)
      for name in ("value", "gate")
    )
    return value * nn.sigmoid(gate)
