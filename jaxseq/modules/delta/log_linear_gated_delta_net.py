"""Log-linear Gated DeltaNet (Guo et al. 2025, arXiv:2506.04761, sec. 3).

    lambda_t^(l) = softplus(c_l (x_t W)_l)                    one a head and level
    o_t = sum_l lambda_t^(l) S_t^(l)^T q_t

The rest is Gated DeltaNet; S^(l) are the parts of its memory from each scale of the
past.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.delta.gated_delta_net import (
  INIT,
  GatedDeltaNet,
  GatedDeltaNetState,
)

__all__ = ["LogLinearGatedDeltaNet"]


class LogLinearGatedDeltaNet(GatedDeltaNet):
  """Gated DeltaNet with O(log T) memories, each read as the token says.

  Attributes:
    num_levels: Levels L of the past, the last for all that is older.
  """

  num_levels: int = 15  # The authors', for 16,384 tokens.

  def _recur(self, x, q, k, v, log_decay, beta, memory, segment_ids):
    H, L = self.value_heads, self.num_levels
    project = layers.projection(
      H * L,
      ("embed", "heads"),
      kernel_init=INIT,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="level_scales",
    )
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("heads", None))
    gains = self.param("level_gains", ones, (H, L), self.param_dtype)
    scales = project(x).reshape(*x.shape[:2], H, L).astype(jnp.float32)
    return ops.log_linear_delta(
      q,
      k,
      v,
      log_decay,
      beta,
      nn.softplus(gains * scales),
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  @nn.nowrap
  def initial_state(self, batch_size: int) -> GatedDeltaNetState:
    state = super().initial_state(batch_size)
    buckets = jnp.repeat(state.memory[:, :, None], self.num_levels - 1, axis=2)
    memory = ops.FenwickState(buckets, jnp.zeros(batch_size, jnp.int32))
    return state._replace(memory=memory)
