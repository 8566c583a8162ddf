"""minGRU and minLSTM (Feng et al. 2024, arXiv:2410.01201, sec. 3 and appendix B).

    z_t = sigmoid(x_t W_z + b_z)                                    minGRU
    h_t = (1 - z_t) h_{t-1} + z_t g(x_t W_h + b_h)

    f_t = sigmoid(x_t W_f + b_f),   i_t = sigmoid(x_t W_i + b_i)    minLSTM
    h_t = f_t / (f_t + i_t) h_{t-1} + i_t / (f_t + i_t) g(x_t W_h + b_h)

Gates that see the input alone leave a recurrence that is linear. The authors sum
logarithms, for which states have to be positive, by g(x) = x + 1/2 where x >= 0 and
sigmoid(x) below (appendix B); our sum takes factors and needs no logarithms.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["MinGRU", "MinLSTM"]


class MinGRU(Mixer):
  """A GRU whose gate does not see its state.

  Attributes:
    expand: Width N of the state, as a multiple of `features`. If it is not 1, an output
      projection brings the state back to `features`.
    positive: Whether candidates pass through g, as in all that the authors train, or
      are linear, as in their sec. 3.
  """

  expand: int = 1
  positive: bool = True

  @property
  def width(self) -> int:
    return self.expand * self.features

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    u = ops.segments.clear_padding(x, segment_ids)
    kept, written = self._gates(u)
    candidate = self._project(u, "candidate")
    if self.positive:
      candidate = jnp.where(candidate >= 0, candidate + 0.5, nn.sigmoid(candidate))
    self.show(log_decay=jnp.log(kept))
    h, state = ops.diagonal_recurrence(
      kept,
      written * candidate,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    if self.expand != 1:
      h = layers.projection(
        self.features,
        ("heads", "embed"),
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name="out",
      )(h.astype(self.dtype))
    return h.astype(x.dtype), state

  def _gates(self, x):
    """The shares of the state and of the candidate; they add up to 1."""
    gate = self._project(x, "gate")
    return nn.sigmoid(-gate), nn.sigmoid(gate)

  def _project(self, x, name, bias=0.0):
    return layers.projection(
      self.width,
      ("embed", "heads"),
      use_bias=True,
      bias_init=nn.initializers.constant(bias),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x).astype(jnp.float32)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B N"]:
    return jnp.zeros((batch_size, self.width))


class MinLSTM(MinGRU):
  """An LSTM whose gates do not see its state and share what there is to share.

  Attributes:
    forget_bias: Initial bias of the forget gate. A large one makes the memory long; the
      authors try several.
  """

  forget_bias: float = 0.0

  def _gates(self, x):
    forget, write = (
      self._project(x, "forget", self.forget_bias),
      self._project(x, "input"),
    )
    log_ratio = nn.log_sigmoid(forget) - nn.log_sigmoid(write)
    return nn.sigmoid(log_ratio), nn.sigmoid(-log_ratio)
