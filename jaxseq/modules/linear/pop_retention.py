"""Parallel observation prediction: REM (Cohen et al. 2024, arXiv:2402.05643, sec. 3).

    o o o o a  p p p p  o o o o a  p p p p  ...         blocks of 5, predictions of 4
    S_n = gamma^5 S_{n-1} + (what block n writes)
    S_n,i = gamma S_n,i-1 + k_i v_i^T,   S_n,0 = S_n    read by the i-th prediction

The tokens of a block, an observation and an action, are observed: retention reads and
writes them. The predictions after it, learned tokens that the model puts there, read
the memory and each other, and then what they wrote is forgotten; so they make the whole
next observation at once. Each stands at the position of the token that it predicts. For
all blocks together that is two sums with scalar decays: one that predictions do not
write to, and one that is emptied by observed tokens.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxseq import ops, positions
from jaxseq.modules.linear.retention import Retention, RetentionState

__all__ = ["POPMemory", "POPRetention"]

EMPTIED = -1e4  # A log decay whose exponential is zero.


class POPMemory(NamedTuple):
  """What observed tokens wrote, and what the open group of predictions did."""

  observed: Float[Array, "B H K V"]
  predicted: Float[Array, "B H K V"]


class POPRetention(Retention):
  """Retention in which groups of tokens read the memory without leaving a trace.

  Attributes:
    num_heads: Heads H.
    expand_v: Width of all values, as a multiple of `features`.
    norm_epsilon: Of the norm over each head's outputs.
    block_size: Observed tokens of a block. The authors have 64 and an action on Atari.
    num_predictions: Tokens after each block that predict the next.
  """

  block_size: int = 5
  num_predictions: int = 4

  def __post_init__(self):
    super().__post_init__()
    if self.block_size < 1 or self.num_predictions < 0:
      raise ValueError(
        "POPRetention needs block_size >= 1 and num_predictions >= 0; "
        f"got {self.block_size} and {self.num_predictions}"
      )

  def _retain(self, q, k, v, place, memory, segment_ids):
    block, i = jnp.divmod(place, self.block_size + self.num_predictions)
    q, k = (positions.rotary(y, block * self.block_size + i) for y in (q, k))
    predicts = (i >= self.block_size)[..., None]
    log_decay = self._log_decay()

    def read(writes, log_decay, memory):
      return ops.scalar_decay(
        q,
        jnp.where(writes[..., None], k, 0),
        v,
        log_decay,
        initial_state=memory,
        segment_ids=segment_ids,
        implementation=self.implementation,
      )

    kept = jnp.where(predicts, 0.0, log_decay)
    self.show(log_decay=kept)
    from_observed, observed = read(~predicts, kept, memory.observed)
    kept = jnp.where(predicts, log_decay, EMPTIED)
    from_predicted, predicted = read(predicts, kept, memory.predicted)
    since = jnp.maximum(i - self.block_size + 1, 0)[
      ..., None
    ]  # Tokens since the block.
    faded = jnp.exp(since * log_decay)[..., None] * from_observed
    return (faded + from_predicted).astype(v.dtype), POPMemory(observed, predicted)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> RetentionState:
    memory, length = super().initial_state(batch_size)
    return RetentionState(POPMemory(memory, memory), length)
