"""A temporal convolutional network before chunked attention (TCNCA, arXiv:2312.05605).

    u_{l+1} = u_l + silu(conv_l(u_l) + b_l)          l = 0 .. L-1
    conv_l(u)_t = sum_k w_lk * u_{t - k b^l}         k = 0 .. K-1

Terzic et al. (2023) put a stack of dilated causal depthwise convolutions in the place
of Mega's moving average: its cost is O(T), and L layers see 1 + (K-1)(b^L - 1)/(b - 1)
tokens. Gates and attention are Mega's, in chunks: see `gated_attention`. What else is
in a layer could not be looked up: that it adds to its input, the SiLU and the
initialisation are ours, after Bai et al. (2018, arXiv:1803.01271).
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.modules.conv import gated_attention
from jaxseq.modules.conv.gated_attention import GatedAttentionState
from jaxseq.modules.mixer import Mixer

__all__ = ["TCNCA"]


class TCNCA(Mixer):
  """Dilated convolutions before a gated attention of one head within chunks.

  The output holds the input, by the share that the update gate leaves.

  Attributes:
    num_convs: Convolutions L.
    kernel_size: Taps K of each.
    dilation: b, by which the taps of each stand further apart than those of the last.
    key_size: Size of z, from which queries and keys are made.
    value_size: Width of the values. 2 D if None.
    activation: Of the attention: "softmax", "laplace" or "relu2".
    position_bias: Whether the bias of a distance is a number ("simple") or a product of
      two vectors turned by it ("rotary").
    chunk_size: Tokens of a chunk of the attention.
    norm: "layer", "scale" (one number for all channels), or None.
    norm_first: Whether it is of the inputs, not of the outputs.
  """

  num_convs: int = 3
  kernel_size: int = 5
  dilation: int = 4
  key_size: int = 128
  value_size: int | None = None
  activation: str = "softmax"
  position_bias: str = "simple"
  chunk_size: int = 128
  norm: str | None = "layer"
  norm_first: bool = True

  max_length = None  # A chunk bounds what is seen.

  def __post_init__(self):
    super().__post_init__()
    gated_attention.check(self)
    for count in ("num_convs", "kernel_size", "dilation", "chunk_size"):
      size = getattr(self, count)
      if size is None or size < 1:
        raise ValueError(f"TCNCA needs {count} >= 1; got {size}")

  @property
  def histories(self) -> tuple[int, ...]:
    """Tokens that each convolution sees before the current one."""
    return tuple(
      (self.kernel_size - 1) * self.dilation**layer for layer in range(self.num_convs)
    )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    return gated_attention.mix(self, self._move, x, state, segment_ids)

  def _move(self, x, state, segment_ids):
    u, after = x.astype(jnp.float32), []
    for layer in range(self.num_convs):
      taps = nn.initializers.lecun_normal(in_axis=0, out_axis=())
      shape = (self.kernel_size, self.features)
      y, last = ops.short_conv(
        u,
        self._param(f"conv_{layer}", taps, shape, (None, "embed")),
        self._param(f"conv_bias_{layer}", nn.initializers.zeros, shape[1:], ("embed",)),
        activation="silu",
        dilation=self.dilation**layer,
        initial_state=None if state is None else state[layer],
        segment_ids=segment_ids,
        implementation=self.implementation,
      )
      u = u + y
      after.append(last)
    return u, tuple(after)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> GatedAttentionState:
    convs = tuple(jnp.zeros((batch_size, n, self.features)) for n in self.histories)
    return GatedAttentionState(convs, gated_attention.initial_cache(self, batch_size))
