"""Comba (Hu et al. 2025, arXiv:2506.02475, eq. 5 and fig. 1).

S_t = (exp(g_t) I - sigmoid(b) beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
o_t = S_t^T (q_t - d k_t)                         d, b: one number a head
y_t = (norm(o_t) * sigmoid(x_t W_g)) W_o

q, k, v, g and beta are those of Gated DeltaNet. The feedback of the state is read
before the decay and weaker than the write; the output is corrected by what the memory
holds under the key itself. As in fig. 1, q - d k is made before both are given length
1. (The authors' code subtracts d sigmoid(b) k, and gives sigmoid(b) k length 1 too,
which undoes b.)
"""

import flax.linen as nn

from jaxseq import ops
from jaxseq.modules.delta.gated_delta_net import GatedDeltaNet

__all__ = ["Comba"]


class Comba(GatedDeltaNet):
  """A delta rule in closed loop: feedback on the state and on the output.

  Attributes:
    num_heads: Heads H of queries and keys.
    num_value_heads: Heads of values, gates and memories, a multiple of H. H if None.
    head_dim: K of a head. 3/4 D / H if None.
    expand_v: V / K.
    negative_eigenvalues: False: with beta beyond 1 the state could grow.
    norm_epsilon: Of the norm over each head's outputs.
    initial_correction: Of d. The authors take 1 for 1.3B parameters, 0.02 for 340M.
  """

  initial_correction: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    if self.negative_eigenvalues:
      raise ValueError("Comba needs negative_eigenvalues = False; got True")

  def _directions(self, q, k):
    init = nn.initializers.constant(self.initial_correction)
    init = nn.with_logical_partitioning(init, ("heads",))
    d = self.param("correction", init, (self.num_heads,), self.param_dtype)
    return super()._directions(q - (d[:, None] * k).astype(q.dtype), k)

  def _recur(self, x, q, k, v, log_decay, beta, memory, segment_ids):
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("heads",))
    b = self.param("feedback", ones, (self.value_heads,), self.param_dtype)
    return ops.splr(
      q,
      k,
      v,
      nn.sigmoid(b)[:, None] * k,
      log_decay,
      beta,
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _output_gate(self, x):
    width = self.value_heads * self.value_size
    return nn.sigmoid(self._project(x, width, "gate"))
