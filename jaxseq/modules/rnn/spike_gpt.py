"""SpikeGPT (Zhu et al. 2023, arXiv:2302.13939, sec. 3).

    y_t = LIF(RWKV-4's time mixing of x)_t                spiking RWKV
    y_t = LIF(RWKV-4's channel mixing of x)_t             spiking RFFN
    LIF: u_t = v_{t-1} + (x_t - v_{t-1}) / 2,   s_t = [u_t >= 1],   v_t = u_t (1 - s_t)

Neurons with an arctan for a gradient pass on spikes, so that the products with the next
matrix are sums of its rows; the collection "gates" shows the spikes, whose number is
what a token costs. A block is both, each after a norm and inside a residual: that is
the pattern ("spike_gpt", "spike_gpt_channel_mix") with no MLP.

Ours: rounded products would move spikes, so they are float32 whatever `dtype` is; and
the output matrices begin orthogonal, so large that neurons fire from the first step,
where in the authors' code they begin with zeros, as RWKV's.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import ops
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.rnn.rwkv4 import RWKV4, RWKV4ChannelMix

__all__ = ["SpikeGPT", "SpikeGPTChannelMix", "SpikeGPTState"]

OUT_INIT = nn.initializers.orthogonal(4.0)  # A half, the gate, and the neurons' tau.


class SpikeGPTState(NamedTuple):
  """What a layer carries: that of the layer inside, and the membranes' potentials."""

  inner: Any
  membrane: Float[Array, "B D"]


class SpikeGPT(Mixer):
  """The time mixing of RWKV-4 behind spiking neurons.

  Attributes:
    tau: Time constant of the neurons, in tokens.
    threshold: Potential that fires.
  """

  tau: float = 2.0
  threshold: float = 1.0

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    inner, membrane = (None, None) if state is None else state
    y, inner = self._inner(name="inner")(
      x.astype(jnp.float32), inner, segment_ids=segment_ids
    )
    spikes, membrane = ops.lif(
      y / self.tau,
      decay=1 - 1 / self.tau,
      threshold=self.threshold,
      initial_state=membrane,
      segment_ids=segment_ids,
    )
    self.show(spikes=spikes)
    return spikes.astype(x.dtype), SpikeGPTState(inner, membrane)

  @nn.nowrap
  def _inner(self, cls=RWKV4, **attributes):
    return cls(
      features=self.features,
      implementation=self.implementation,
      dtype=jnp.float32,
      param_dtype=self.param_dtype,
      out_init=OUT_INIT,
      **attributes,
    )

  @nn.nowrap
  def initial_state(self, batch_size: int) -> SpikeGPTState:
    inner = self._inner(parent=None).initial_state(batch_size)
    return SpikeGPTState(inner, jnp.zeros((batch_size, self.features)))


class SpikeGPTChannelMix(SpikeGPT):
  """The channel mixing of RWKV-4 behind spiking neurons."""

  @nn.nowrap
  def _inner(self, **attributes):
    return super()._inner(cls=RWKV4ChannelMix, **attributes)
