"""ReBased (Aksenov et al. 2024, arXiv:2402.10644, sec. 4).

x' = gamma * norm(x) + beta                           of queries and keys, all heads
o_t = sum_j (q'_t^T k'_j)^2 v_j / sum_j (q'_t^T k'_j)^2,   j <= t

Unlike those of Based, weights may be zero. Norm, gamma and beta are a layer norm, the
same for queries and keys, as in the authors' code.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.layers import feature_maps
from jaxseq.modules.linear.linear_transformer import LinearTransformer

__all__ = ["ReBased"]


class ReBased(LinearTransformer):
  """Attention by a quadratic kernel with a learned minimum.

  Attributes:
    feature_size: Width K of a query or key, which has about K^2 / 2 features.
    norm_epsilon: Of the layer norm of queries and keys.
  """

  feature_size: int = 16
  norm_epsilon: float = 1e-5

  use_bias = False
  # The sum of products that is a weight has terms of size K, so that in bfloat16 the
  # error of a weight is about 0.1. (The authors' code adds 1e-5.)
  least_denominator = 0.1

  @property
  def key_size(self) -> int:
    return self.feature_size

  @property
  def num_features(self) -> int:
    return self.key_size * (self.key_size + 1) // 2

  def feature_map(self, q, k):
    norm = nn.LayerNorm(
      self.norm_epsilon,
      dtype=jnp.float32,
      param_dtype=self.param_dtype,
      scale_init=nn.with_logical_partitioning(nn.initializers.ones, (None,)),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
      name="norm",
    )
    q, k = (feature_maps.quadratic(norm(y)) for y in (q, k))
    return q, k
