"""cosFormer, causal (Qin et al. 2022, arXiv:2202.08791, sec. 3.2).

o_i = sum_j relu(q_i)^T relu(k_j) cos(pi (i - j) / 2M) v_j / (the same sum without v_j)

over j <= i. The cosine of a difference is a product of features, so this is linear
attention with twice the features: relu(x_i) times the cosine and sine of pi i / 2M.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxseq import ops
from jaxseq.layers import feature_maps
from jaxseq.modules.linear.linear_transformer import LinearTransformer

__all__ = ["CosFormer", "CosFormerState"]


class CosFormerState(NamedTuple):
  """What cosFormer carries: the sums, and how many tokens they are of."""

  memory: ops.LinearAttentionState
  length: Int[Array, "B"]


class CosFormer(LinearTransformer):
  """Attention whose weights fall as the cosine of the distance.

  Attributes:
    max_length: M, in tokens. Tokens further apart than that have negative weights.
  """

  max_length: int = 2048

  @property
  def num_features(self) -> int:
    return 2 * self.key_size

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    state = self.initial_state(B) if state is None else state
    q, k, v = self._heads(ops.segments.clear_padding(x, segment_ids))
    place = ops.segments.positions(segment_ids, state.length, (B, T))
    q, k = (
      feature_maps.cosine_reweighting(feature_maps.relu(y), place, self.max_length)
      for y in (q, k)
    )
    o, memory = self._attend(q, k, v, state.memory, segment_ids)
    length = ops.segments.length_after(segment_ids, state.length, T)
    return self._output(o, x, segment_ids), CosFormerState(memory, length)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> CosFormerState:
    memory = super().initial_state(batch_size)
    return CosFormerState(memory, jnp.zeros(batch_size, jnp.int32))
