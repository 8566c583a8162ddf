"""Log-linear Mamba-2 (Guo et al. 2025, arXiv:2506.04761, sec. 3).

    lambda_t^(l) = softplus(c_l (x_t W)_l)                    one a head and level
    o_t = sum_l lambda_t^(l) S_t^(l)^T C_t + D u_t

The rest is Mamba-2; S^(l) are the parts of its state from each scale of the past.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.modules.ssm.mamba2 import Mamba2, Mamba2State

__all__ = ["LogLinearMamba2"]


class LogLinearMamba2(Mamba2):
  """Mamba-2 with O(log T) states, each read as the token says.

  Attributes:
    num_levels: Levels L of the past, the last for all that is older.
  """

  num_levels: int = 15  # The authors', for 16,384 tokens.

  def __post_init__(self):
    super().__post_init__()
    if self.negative_eigenvalues:
      raise ValueError("LogLinearMamba2 needs negative_eigenvalues = False; got True")

  def _recur(self, u, q, k, v, log_decay, memory, segment_ids):
    H, L = self.heads, self.num_levels
    scales = self._project(u, H * L, "level_scales").reshape(*u.shape[:2], H, L)
    gains = self._param("level_gains", nn.initializers.ones, (H, L), ("heads", None))
    return ops.log_linear(
      q,
      k,
      v,
      log_decay,
      nn.softplus(gains * scales.astype(jnp.float32)),
      initial_state=memory,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Mamba2State:
    state = super().initial_state(batch_size)
    one = state.memory[:, :, None]
    buckets = jnp.repeat(one, self.num_levels - 1, axis=2)
    memory = ops.FenwickState(buckets, jnp.zeros(batch_size, jnp.int32))
    return state._replace(memory=memory)
