"""NormAttention of TransNormer (Qin et al. 2022, arXiv:2210.10340, sec. 4.1).

    S_t = S_{t-1} + phi(k_t) v_t^T,    phi(x) = elu(x) + 1
    y_t = norm(S_t^T phi(q_t)) W_o

The denominator of linear attention, whose gradients have no bound, is replaced by an
RMS norm of all heads together. TransNormer takes this layer in the later half of its
stack and `diag_attention` in the earlier: in a stack, two names of its pattern.
"""

import jax.numpy as jnp
from flax import linen as nn

from jaxseq import layers, ops
from jaxseq.modules.linear.linear_transformer import LinearTransformer

__all__ = ["TransNormer"]


class TransNormer(LinearTransformer):
  """Linear attention with a norm instead of a denominator.

  Attributes:
    norm_epsilon: Of the norm over all outputs.
  """

  norm_epsilon: float = 1e-6

  def _attend(self, q, k, v, state, segment_ids):
    return ops.linear_attention(
      q,
      k,
      v,
      initial_state=state,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )

  def _output(self, o, x, segment_ids):
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=("heads",), param_dtype=self.param_dtype, name="norm"
    )
    return super()._output(norm(o.reshape(*x.shape[:2], -1)), x, segment_ids)

  @nn.nowrap
  def initial_state(self, batch_size: int):
    size = (self.num_heads, self.num_features, self.value_size)
    return jnp.zeros((batch_size, *size))
