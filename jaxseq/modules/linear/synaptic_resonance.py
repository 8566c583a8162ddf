"""Synaptic resonance (Applegarth et al. 2025, "Exploring Synaptic Resonance in Large
Language Models"): a Hebbian memory that is written the more, the better it fits.

c_t = lambda c_{t-1} + k_t                                  the context, fading keys
r_t = (1 + cos(k_t, c_{t-1})) / 2                           resonance, in [0, 1]
R_t = lambda R_{t-1} + eta r_t k_t v_t^T                    synapses [K, V]
y_t = (v_t + R_t^T q_t) W_o,    q, k of length 1

The paper's idea, as its summaries have it, is that synaptic weights are reinforced
where they are relevant in context, beside a transformer's own path. It leaves open what
relevance is (here the cosine with the fading mean of the keys so far), which weights
these are (here a matrix a head), whether they change within a sequence (here they do:
they are state), and how fast they grow and fade (here learned, one number a head).
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["SynapticResonance", "SynapticResonanceState"]

INITIAL_DECAY = 0.9  # lambda: the paper gives none.


class SynapticResonanceState(NamedTuple):
  """What the layer carries: synapses, and the context that decides on their growth."""

  memory: Float[Array, "B H K V"]
  context: Float[Array, "B HK"]


class SynapticResonance(Mixer):
  """Each token's own value, and what a Hebbian memory adds to it.

  Attributes:
    num_heads: Heads H.
  """

  num_heads: int = 4

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"SynapticResonance needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    H, K = self.num_heads, self.head_size
    x = ops.segments.clear_padding(x, segment_ids)
    state = self.initial_state(B) if state is None else state

    def project(x, name, axes=("embed", "heads")):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(D, axes, name=name, **types)(x)

    def scalar(name, value):
      init = nn.with_logical_partitioning(nn.initializers.constant(value), ("heads",))
      return self.param(name, init, (H,), self.param_dtype)

    heads = lambda y: y.reshape(B, T, H, K)
    q, k = (layers.l2_normalize(heads(project(x, name))) for name in "qk")
    v = project(x, "v")
    log_decay = nn.log_sigmoid(
      scalar("decay", math.log(INITIAL_DECAY / (1 - INITIAL_DECAY)))
    )
    resonance, context = self._resonance(k, jnp.exp(log_decay), state, segment_ids)
    written = scalar("rate", 1 - INITIAL_DECAY) * resonance
    log_decay = jnp.broadcast_to(log_decay, (B, T, H))
    self.show(log_decay=log_decay)
    o, memory = ops.scalar_decay(
      q.astype(self.dtype),
      (written[..., None] * k).astype(self.dtype),
      heads(v),
      log_decay,
      initial_state=state.memory,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    y = project(v + o.reshape(B, T, D), "out", ("heads", "embed")).astype(x.dtype)
    return y, SynapticResonanceState(memory, context)

  def _resonance(self, k, decay, state, segment_ids):
    """How well each key fits those before it, and the context after the last."""
    decay = jnp.repeat(decay, self.head_size)
    contexts, last = ops.diagonal_recurrence(
      decay,
      k.reshape(*k.shape[:2], -1),
      initial_state=state.context,
      segment_ids=segment_ids,
    )
    before, _ = ops.token_shift(contexts, state.context, segment_ids)
    before = layers.l2_normalize(before.reshape(k.shape))
    return (1 + jnp.sum(k * before, axis=-1)) / 2, last

  @nn.nowrap
  def initial_state(self, batch_size: int) -> SynapticResonanceState:
    H, K = self.num_heads, self.head_size
    memory = jnp.zeros((batch_size, H, K, K))
    return SynapticResonanceState(memory, jnp.zeros((batch_size, H * K)))
