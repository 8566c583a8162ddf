"""The quasi-recurrent network (Bradbury et al. 2016, arXiv:1611.01576, sec. 2).

    z, f, o, i = tanh, sigmoid, sigmoid, sigmoid of  sum_{w<W} x_{t-w} W_w + b
    f-pooling:    h_t = f_t h_{t-1} + (1 - f_t) z_t                       (eq. 3)
    fo-pooling:   c_t = f_t c_{t-1} + (1 - f_t) z_t,   h_t = o_t c_t      (eq. 4)
    ifo-pooling:  c_t = f_t c_{t-1} + i_t z_t,         h_t = o_t c_t      (eq. 5)

All that depends on several tokens before the pooling is a convolution of width W.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["POOLINGS", "QRNN", "QRNNState"]

POOLINGS = ("f", "fo", "ifo")  # The gates that each has.


class QRNNState(NamedTuple):
  """What the layer carries: the pool, and the last inputs of the convolution."""

  c: Float[Array, "B D"]
  inputs: Float[Array, "B W-1 D"]


class QRNN(Mixer):
  """Convolutions over time, and pooling between them that forgets.

  Attributes:
    pooling: One of `POOLINGS`.
    window: Taps W of the convolution.
  """

  pooling: str = "fo"
  window: int = 2

  def __post_init__(self):
    super().__post_init__()
    if self.pooling not in POOLINGS:
      raise ValueError(f"QRNN needs pooling in {POOLINGS}; got {self.pooling!r}")
    if self.window < 1:
      raise ValueError(f"QRNN needs window >= 1; got {self.window}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    state = self.initial_state(len(x)) if state is None else state
    taps, last = [ops.segments.clear_padding(x, segment_ids)], []
    for before in state.inputs.swapaxes(0, 1)[::-1]:
      shifted, end = ops.token_shift(taps[-1], before, segment_ids)
      taps, last = [*taps, shifted], [end, *last]
    names = ("z", *self.pooling)
    convolved = layers.projection(
      len(names) * self.features,
      ("embed", "heads"),
      use_bias=True,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="conv",
    )(jnp.concatenate(taps, axis=-1))
    parts = jnp.split(convolved.astype(jnp.float32), len(names), axis=-1)
    gates = dict(zip(names, parts))
    kept = nn.sigmoid(gates["f"])
    written = nn.sigmoid(gates["i"] if "i" in gates else -gates["f"])
    self.show(log_decay=nn.log_sigmoid(gates["f"]))
    c, pool = ops.diagonal_recurrence(
      kept,
      written * jnp.tanh(gates["z"]),
      initial_state=state.c,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    h = nn.sigmoid(gates["o"]) * c if "o" in gates else c
    inputs = jnp.stack(last, axis=1) if last else state.inputs
    return h.astype(x.dtype), QRNNState(pool, inputs)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> QRNNState:
    c = jnp.zeros((batch_size, self.features))
    return QRNNState(c, jnp.zeros((batch_size, self.window - 1, self.features)))
