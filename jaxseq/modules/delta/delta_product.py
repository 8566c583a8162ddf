"""DeltaProduct, plain and gated (Siems et al. 2025, arXiv:2502.10297, sec. 3).

S_t0 = exp(g_t) S_{t-1},   S_t = S_tn,   o_t = S_t^T q_t
S_tj = (I - beta_tj k_tj k_tj^T) S_t,j-1 + beta_tj k_tj v_tj^T            j = 1 .. n
y_t = norm(o_t) W_o,   gated:  y_t = (norm(o_t) * silu(x_t W_g)) W_o

Keys, values and betas of the n steps are projections of the same token, made as in
DeltaNet and Gated DeltaNet. The plain layer has no decay g.
"""

from jaxseq import ops
from jaxseq.modules.delta.delta_net import DeltaNet
from jaxseq.modules.delta.gated_delta_net import GatedDeltaNet

__all__ = ["DeltaProduct", "GatedDeltaProduct"]


class DeltaProduct(DeltaNet):
  """DeltaNet with several steps of the delta rule a token.

  Attributes:
    num_heads: Heads H of queries and keys.
    num_value_heads: Heads of values and memories, a multiple of H. H if None.
    head_dim: K of a head. D / H if None.
    expand_v: V / K.
    negative_eigenvalues: Whether beta ranges over (0, 2) instead of (0, 1).
    norm_epsilon: Of the norm over each head's outputs.
    num_householders: Steps n.
  """

  negative_eigenvalues: bool = True
  num_householders: int = 2

  @property
  def num_steps(self) -> int:
    return self.num_householders

  def _recur(self, x, q, k, v, beta, memory, segment_ids):
    return _recur(self, q, k, v, None, beta, memory, segment_ids)


class GatedDeltaProduct(GatedDeltaNet):
  """Gated DeltaNet with several steps of the delta rule a token.

  Attributes:
    num_heads: Heads H of queries and keys.
    num_value_heads: Heads of values, gates and memories, a multiple of H. H if None.
    head_dim: K of a head. 3/4 D / H if None.
    expand_v: V / K.
    negative_eigenvalues: Whether beta ranges over (0, 2) instead of (0, 1).
    norm_epsilon: Of the norm over each head's outputs.
    num_householders: Steps n.
  """

  negative_eigenvalues: bool = True
  num_householders: int = 2

  @property
  def num_steps(self) -> int:
    return self.num_householders

  def _recur(self, x, q, k, v, log_decay, beta, memory, segment_ids):
    return _recur(self, q, k, v, log_decay, beta, memory, segment_ids)


def _recur(mixer, q, k, v, log_decay, beta, memory, segment_ids):
  """With the steps, that stand side by side as heads, on an axis of their own."""
  H, n = mixer.value_heads, mixer.num_steps
  steps = lambda x: x.reshape(*x.shape[:2], n, H, *x.shape[3:])
  return ops.delta_product(
    q,
    steps(k),
    steps(v),
    log_decay,
    steps(beta),
    initial_state=memory,
    segment_ids=segment_ids,
    implementation=mixer.implementation,
  )
