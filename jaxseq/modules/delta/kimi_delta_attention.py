"""Kimi delta attention (Kimi Linear, Kimi Team 2025, arXiv:2510.26692, sec. 3 and 4).

g_t = -exp(A_log) softplus(x_t W_1 W_2 + dt_bias)     a decay for each key channel
S_t = (I - beta_t k_t k_t^T) diag(exp(g_t)) S_{t-1} + beta_t k_t v_t^T
y_t = (norm(S_t^T q_t) * sigmoid(x_t W_3 W_4 + b)) W_o

q, k, v and beta are those of Gated DeltaNet; the ranks are the size of a head.
"""

from fractions import Fraction
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.modules.delta.gated_delta_net import GatedDeltaNet

__all__ = ["KimiDeltaAttention"]


class KimiDeltaAttention(GatedDeltaNet):
  """Gated DeltaNet whose memory fades by channel.

  Attributes:
    num_heads: Heads H of queries and keys; the authors' have 128 channels each.
    num_value_heads: Heads of values, gates and memories, a multiple of H. H if None.
    head_dim: K of a head. D / H if None.
    expand_v: V / K.
    negative_eigenvalues: Whether beta ranges over (0, 2) instead of (0, 1).
    norm_epsilon: Of the norm over each head's outputs.
  """

  expand_v: float = 1.0

  keys: ClassVar[Fraction] = Fraction(1)

  def _gates(self, x):
    """Log decays by channel, and beta."""
    return self._log_decay(x), self._beta(x)

  def _log_decay(self, x):
    H, K = self.value_heads, self.key_size
    low = self._project(x, self.value_size, "decay_down", ("embed", None))
    dt = self._project(low, H * K, "decay_up", (None, "heads")).astype(jnp.float32)
    dt = nn.softplus(dt + self._steps(H * K)).reshape(*x.shape[:2], H, K)
    log_decay = -self._rates()[:, None] * dt
    self.show(log_decay=log_decay)
    return log_decay

  def _recur(self, x, q, k, v, log_decay, beta, memory, segment_ids):
    return ops.channel_delta_rule(
      q,
      k,
      v,
      log_decay,
      beta,
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _output_gate(self, x):
    low = self._project(x, self.value_size, "gate_down", ("embed", None))
    width = self.value_heads * self.value_size
    return nn.sigmoid(
      self._project(low, width, "gate_up", (None, "heads"), use_bias=True)
    )
