"""Flow-Attention (Flowformer, Wu et al. 2022, arXiv:2202.06258).

Keys are sources, queries sinks, and what flows between them is conserved. With phi the
sigmoid, sums over the document and n its number of tokens,

I_t = phi(q_t)^T sum_j phi(k_j)                   what comes in at a sink
O_t = phi(k_t)^T sum_j phi(q_j)                   what goes out of a source
I'_t = phi(q_t)^T sum_j phi(k_j) / O_j            the same, with all that goes out one
O'_t = phi(k_t)^T sum_j phi(q_j) / I_j            the same, with all that comes in one
w_t = n exp(O'_t) / sum_j exp(O'_j)               competition of the sources
y_t = W_o sigmoid(I'_t) (phi(q_t) / I_t)^T sum_j phi(k_j) w_j v_j^T

In the causal form (the authors' code) every sum runs over the tokens so far, n_t is
their number, and 1 / O_j and 1 / I_j become n_j / (n_t O_j) and n_j / (n_t I_j).
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["BidirectionalFlowAttention", "FlowAttention", "FlowState"]

EPSILON = 1e-6  # Added to features and to their sums.


class FlowState(NamedTuple):
  """The sums over the tokens so far, and their number."""

  memory: Float[Array, "B H K V"]
  features: Float[Array, "B 2 H K"]  # Of keys, and of queries.
  shares: Float[Array, "B 2 H K"]  # The same by what goes out, and by what comes in.
  competition: Float[Array, "B H"]
  length: Int[Array, "B"]


class FlowAttention(Mixer):
  """Linear attention in which sources compete for a conserved flow; causal.

  Attributes:
    num_heads: Heads H.
  """

  num_heads: int = 4

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"{type(self).__name__} needs num_heads that divide features = "
        f"{self.features}; got {self.num_heads}"
      )

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    return self._flow(x, state, segment_ids)

  def _flow(self, x, state, segment_ids):
    """Outputs, and the sums after the last token."""
    B, T, _ = x.shape
    kind = x.dtype
    x = ops.segments.clear_padding(x, segment_ids)
    before = self._no_tokens(B) if state is None else state

    def project(x, name, axes=("embed", "heads")):
      return layers.projection(
        self.features,
        axes,
        use_bias=True,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(x)

    def heads(name):
      return project(x, name).reshape(B, T, self.num_heads, self.head_size)

    def flow(features, sums):
      return jnp.sum((features + EPSILON) * (sums + EPSILON), axis=-1)

    q, k = (nn.sigmoid(heads(name).astype(jnp.float32)) for name in "qk")
    # Sinks and sources, and the same the other way round.
    ends, others = jnp.stack([q, k], axis=2), jnp.stack([k, q], axis=2)
    n = self._count(before.length, x, segment_ids)[..., None]
    sums, features = self._total(others, before.features, segment_ids)
    through = n[..., None] / flow(ends, sums)  # Of sinks, and of sources.
    others *= through[:, :, ::-1, :, None]
    sums, shares = self._total(others, before.shares, segment_ids)
    sink, source = jnp.moveaxis(flow(ends, sums), 2, 0) / n
    # Clipped, as in the authors' code, against sources that take everything.
    source = jnp.exp(jnp.clip(source, -1, 1))
    sources, competition = self._total(source, before.competition, segment_ids)
    won = n * source / jnp.maximum(sources, EPSILON)  # No sources at padding alone.
    o, memory = self._attend(
      (q * (through[:, :, 0] / n)[..., None]).astype(self.dtype),
      k.astype(self.dtype),
      (heads("v") * won[..., None]).astype(self.dtype),
      before.memory,
      segment_ids,
    )
    o = nn.sigmoid(sink)[..., None] * o
    y = project(o.reshape(x.shape), "out", ("heads", "embed")).astype(kind)
    length = ops.segments.length_after(segment_ids, before.length, T)
    after = FlowState(memory, features, shares, competition, length)
    return ops.segments.clear_padding(y, segment_ids), after

  def _count(self, length, x, segment_ids):
    """Tokens so far, at least one."""
    place = ops.segments.positions(segment_ids, length, x.shape[:2])
    return jnp.maximum(place + 1.0, 1)  # Padding may come first.

  def _total(self, x, before, segment_ids):
    """The sum of x [B, T, ...] over the tokens so far, and over all."""
    flat = x.reshape(*x.shape[:2], -1)
    sums, last = ops.diagonal_recurrence(
      jnp.ones(flat.shape[-1]),
      flat,
      initial_state=before.reshape(x.shape[0], -1),
      segment_ids=segment_ids,
    )
    return sums.reshape(x.shape), last.reshape(before.shape)

  def _attend(self, q, k, v, memory, segment_ids):
    return ops.linear_attention(
      q,
      k,
      v,
      initial_state=memory,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )

  def _no_tokens(self, batch_size):
    B, H, K = batch_size, self.num_heads, self.head_size
    return FlowState(
      memory=jnp.zeros((B, H, K, K)),
      features=jnp.zeros((B, 2, H, K)),
      shares=jnp.zeros((B, 2, H, K)),
      competition=jnp.zeros((B, H)),
      length=jnp.zeros(B, jnp.int32),
    )

  @nn.nowrap
  def initial_state(self, batch_size: int) -> FlowState:
    return self._no_tokens(batch_size)


class BidirectionalFlowAttention(FlowAttention):
  """Flow-Attention over the whole document."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    y, _ = self._flow(x, None, segment_ids)
    return y, None

  def _count(self, length, x, segment_ids):
    return ops.documents.counts(x.shape[:2], segment_ids)

  def _total(self, x, before, segment_ids):
    return ops.documents.sums(x, segment_ids), before

  def _attend(self, q, k, v, memory, segment_ids):
    o = ops.noncausal_linear_attention(
      q,
      k,
      v,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    return o, memory

  initial_state = Mixer.initial_state
