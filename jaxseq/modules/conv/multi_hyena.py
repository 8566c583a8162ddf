"""MultiHyena (Massaroli et al. 2023, arXiv:2310.18780, sec. 4).

    q, k, v = conv(x W + b)                            conv: short, one filter a channel
    z_t = k_t v_t^T,   o_t = (h conv z + d z)_t^T q_t,   y = o W_o + b_o

for each head, whose outer products share one filter h: fewer filters than Hyena's, and
each easier to distil, for a larger state. The filters are those of
`layers.ImplicitFilter`, with the defaults of `Hyena`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.conv.hyena import CONV_SIZE
from jaxseq.modules.mixer import Mixer

__all__ = ["MultiHyena", "MultiHyenaState"]


class MultiHyenaState(NamedTuple):
  """What the layer carries: the last inputs of the short and the long convolutions."""

  short: Float[Array, "B W-1 3D"]
  long: ops.GatedConvState


class MultiHyena(Mixer):
  """Linear attention whose scores fade by a long filter, one a head.

  Attributes:
    head_size: Channels of a head. The convolutions are as many as are the squares of
      all heads, `features` * `head_size`.
    max_length: Taps L of the long filters; see `Hyena`.
    filter_width: Hidden units of the network that makes the filters.
    num_bands: Frequencies of its input features.
    sine_frequency: Initial frequency of its activation.
  """

  head_size: int = 8
  max_length: int = 1024
  filter_width: int = 64
  num_bands: int = 2
  sine_frequency: float = 10.0

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.head_size:
      raise ValueError(
        f"MultiHyena needs head_size that divides features = {self.features}; "
        f"got {self.head_size}"
      )

  @property
  def num_heads(self) -> int:
    return self.features // self.head_size

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    before = MultiHyenaState(None, None) if state is None else state
    inputs, short = ops.short_conv(
      self._project(
        ops.segments.clear_padding(x, segment_ids), 3 * D, "in", ("embed", "heads")
      ),
      self._param("conv", linear_init.kernel_init, (CONV_SIZE, 3 * D), (None, "heads")),
      self._param("conv_bias", linear_init.bias_init(CONV_SIZE), (3 * D,)),
      initial_state=before.short,
      segment_ids=segment_ids,
    )
    inputs = inputs.reshape(B, T, 3, self.num_heads, self.head_size)
    q, k, v = (inputs[:, :, i] for i in range(3))
    o, long = self._mix(q, k, v, before.long, segment_ids)
    y = self._project(o.reshape(B, T, D), D, "out", ("heads", "embed"))
    y = ops.segments.clear_padding(y.astype(x.dtype), segment_ids)
    return y, MultiHyenaState(short, long)

  def _mix(self, q, k, v, state, segment_ids):
    """The long convolutions of the outer products, read by q."""
    filters = layers.ImplicitFilter(
      self.num_heads,
      self.max_length,
      self.filter_width,
      self.num_bands,
      self.sine_frequency,
      param_dtype=self.param_dtype,
      name="filter",
    )()
    return ops.gated_conv(
      q,
      k,
      v,
      filters,
      self._param("skip", nn.initializers.normal(1.0), (self.num_heads,)),
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _project(self, x, width, name, axes):
    return layers.projection(
      width,
      axes,
      use_bias=True,
      kernel_init=linear_init.kernel_init,
      bias_init=linear_init.bias_init(x.shape[-1]),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> MultiHyenaState:
    short = jnp.zeros((batch_size, CONV_SIZE - 1, 3 * self.features))
    shape = (batch_size, self.max_length - 1, self.num_heads, self.head_size)
    return MultiHyenaState(
      short, ops.GatedConvState(jnp.zeros(shape), jnp.zeros(shape))
    )
