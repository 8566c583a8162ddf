"""The token-wise half of a block."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseq.layers.projection import projection

__all__ = ["GEGLU", "SwiGLU"]


class SwiGLU(nn.Module):
  """y = (swish(x W) * x V) W_2 (Shazeer 2020, arXiv:2002.05202, eq. 6).

  Attributes:
    features: Width D of input and output.
    inner_features: Width F of the gate.
    dtype: Of the products.
    param_dtype: Of the parameters.
  """

  activation = staticmethod(nn.swish)

  features: int
  inner_features: int
  dtype: DTypeLike = jnp.bfloat16
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    gate = projection(self.inner_features, ("embed", "mlp"), name="gate", **types)(x)
    up = projection(self.inner_features, ("embed", "mlp"), name="up", **types)(x)
    down = projection(self.features, ("mlp", "embed"), name="down", **types)
    return down(self.activation(gate) * up)


class GEGLU(SwiGLU):
  """y = (gelu(x W) * x V) W_2; the attributes are those of `SwiGLU`."""

  activation = staticmethod(functools.partial(nn.gelu, approximate=False))
