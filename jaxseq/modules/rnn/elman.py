"""The simple recurrent network (Elman 1990, doi:10.1207/s15516709cog1402_1).

    h_t = tanh(W x_t + b + R h_{t-1})

With more than one head R is block-diagonal (FlashRNN, Poeppel et al. 2024,
arXiv:2412.07752).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import ops
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.rnn import heads
from jaxseq.ops.rnn.elman import ACTIVATIONS

__all__ = ["Elman"]


class Elman(Mixer):
  """A network without gates; its output is its hidden state.

  Attributes:
    num_heads: Blocks of R. 1 is the classical network.
    activation: "tanh" or "relu"; see `ops.elman`.
  """

  num_heads: int = 1
  activation: str = "tanh"

  def __post_init__(self):
    super().__post_init__()
    heads.check(self)
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f"Elman needs activation in {tuple(ACTIVATIONS)}; got {self.activation!r}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    h, state = ops.elman(
      heads.gates(self, x, 1),
      heads.recurrent_weights(self, 1),
      activation=self.activation,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return h.reshape(*x.shape[:2], -1).astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B H K"]:
    return jnp.zeros((batch_size, self.num_heads, self.features // self.num_heads))
