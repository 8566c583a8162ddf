"""DeltaNet (Yang et al. 2024, arXiv:2406.06484, sec. 3.3; Schlag et al. 2021).

q, k, v = silu(conv(x W)),  q and k of length 1 in each head,  beta_t = sigmoid(x_t W_b)
S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,   o_t = S_t^T q_t
y_t = norm(o_t) W_o
"""

from fractions import Fraction
from typing import ClassVar

from jaxseq import ops
from jaxseq.modules.delta.gated_delta_net import GatedDeltaNet

__all__ = ["DeltaNet"]


class DeltaNet(GatedDeltaNet):
  """A memory that replaces what is stored under a key, and fades in no other way.

  Attributes:
    num_heads: Heads H of queries and keys.
    num_value_heads: Heads of values and memories, a multiple of H. H if None.
    head_dim: K of a head. D / H if None.
    expand_v: V / K.
    negative_eigenvalues: Whether beta ranges over (0, 2) instead of (0, 1).
    norm_epsilon: Of the norm over each head's outputs.
  """

  expand_v: float = 1.0

  keys: ClassVar[Fraction] = Fraction(1)

  def _gates(self, x):
    return (self._beta(x),)

  def _recur(self, x, q, k, v, beta, memory, segment_ids):
    return ops.delta_rule(
      q,
      k,
      v,
      beta,
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _output_gate(self, x):
    return 1
