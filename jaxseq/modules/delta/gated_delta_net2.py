"""Gated DeltaNet-2 (Hatamizadeh et al. 2026, arXiv:2605.22791).

b_t = sigmoid(x_t W_b),   w_t = sigmoid(x_t W_w)       by key and by value channel
S_t = (I - k_t (b_t * k_t)^T) diag(exp(g_t)) S_{t-1} + k_t (w_t * v_t)^T

The rest, decays and output gate included, is Kimi delta attention, which it is if b_t
and w_t are one number. With `negative_eigenvalues` b_t is twice that, as in the
authors' code.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.modules.delta.kimi_delta_attention import KimiDeltaAttention

__all__ = ["GatedDeltaNet2"]


class GatedDeltaNet2(KimiDeltaAttention):
  """A memory that fades by channel, with separate gates for erasing and writing.

  Attributes:
    num_heads: Heads H of queries and keys; the authors' have 128 channels each.
    num_value_heads: Heads of values, gates and memories, a multiple of H. H if None.
    head_dim: K of a head. D / H if None.
    expand_v: V / K.
    negative_eigenvalues: Whether b ranges over (0, 2) instead of (0, 1).
    norm_epsilon: Of the norm over each head's outputs.
  """

  def _gates(self, x):
    """Log decays, and what is erased and written, by channel."""

    def gate(name, size):
      y = self._project(x, self.value_heads * size, name).astype(jnp.float32)
      return nn.sigmoid(y).reshape(*x.shape[:2], self.value_heads, size)

    erase, write = gate("erase", self.key_size), gate("write", self.value_size)
    return self._log_decay(x), erase * (1 + self.negative_eigenvalues), write

  def _recur(self, x, q, k, v, log_decay, erase, write, memory, segment_ids):
    return ops.decoupled_delta_rule(
      q,
      k,
      v,
      log_decay,
      erase,
      write,
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
