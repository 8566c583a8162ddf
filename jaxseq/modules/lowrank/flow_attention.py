"""Flow-Attention (Flowformer, Wu et al. 2022, arXiv:2202.06258, eq. 4 to 8).

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
    def attend(q, k, v, memory):
      return ops.linear_attention(
        q,
        k,
        v,
        initial_state=memory,
        segment_ids=segment_ids,
        scale=1.0,
        implementation=self.implementation,
      )

    return self._flow(x, state, segment_ids, lambda sums: sums, attend)

  def _flow(self, x, state, segment_ids, read, attend):
    """Outputs, and the sums after the last token.

    `read` makes of the sums so far, at each token, those that the token is to see;
    `attend` reads the sum of the products of keys and values.
    """
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

    def total(x, before):
      """The sum of x, [B, T, ...], that each token sees, and the last sum."""
      flat = x.reshape(B, T, -1)
      sums, last = ops.diagonal_recurrence(
        jnp.ones(flat.shape[-1]),
        flat,
        initial_state=before.reshape(B, -1),
        segment_ids=segment_ids,
      )
      return read(sums).reshape(x.shape), last.reshape(before.shape)

    def flow(features, sums):
      return jnp.sum((features + EPSILON) * (sums + EPSILON), axis=-1)

    q, k = (nn.sigmoid(heads(name).astype(jnp.float32)) for name in "qk")
    # Sinks and sources, and the same the other way round.
    ends, others = jnp.stack([q, k], axis=2), jnp.stack([k, q], axis=2)
    place = ops.segments.positions(segment_ids, before.length, (B, T))
    n = jnp.maximum(read(place + 1.0), 1)[..., None]  # Padding may come first.
    sums, features = total(others, before.features)
    through = n[..., None] / flow(ends, sums)  # Of sinks, and of sources.
    sums, shares = total(others * through[:, :, ::-1, :, None], before.shares)
    sink, source = jnp.moveaxis(flow(ends, sums), 2, 0) / n
    # Clipped, as in the authors' code, against sources that take everything.
    source = jnp.exp(jnp.clip(source, -1, 1))
    sources, competition = total(source, before.competition)
    won = n * source / jnp.maximum(sources, EPSILON)  # No sources at padding alone.
    o, memory = attend(
      (q * (through[:, :, 0] / n)[..., None]).astype(self.dtype),
      k.astype(self.dtype),
      (heads("v") * won[..., None]).astype(self.dtype),
      before.memory,
    )
    o = nn.sigmoid(sink)[..., None] * o
    y = project(o.reshape(x.shape), "out", ("heads", "embed")).astype(kind)
    length = ops.segments.length_after(segment_ids, before.length, T)
    after = FlowState(memory, features, shares, competition, length)
    return ops.segments.clear_padding(y, segment_ids), after

  @nn.nowrap
  def initial_state(self, batch_size: int) -> FlowState:
    return self._no_tokens(batch_size)

  def _no_tokens(self, batch_size):
    B, H, K = batch_size, self.num_heads, self.head_size
    return FlowState(
      memory=jnp.zeros((B, H, K, K)),
      features=jnp.zeros((B, 2, H, K)),
      shares=jnp.zeros((B, 2, H, K)),
      competition=jnp.zeros((B, H)),
      length=jnp.zeros(B, jnp.int32),
    )


class BidirectionalFlowAttention(FlowAttention):
  """Flow-Attention over the whole document."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    if state is not None:
      raise ValueError(
        f"{type(self).__name__} mixes in both directions and has no state; got one"
      )

    def so_far(q, k, v, ids):
      o, _ = ops.linear_attention(
        q, k, v, segment_ids=ids, scale=1.0, implementation=self.implementation
      )
      return o.astype(jnp.float32)

    def attend(q, k, v, memory):
      if segment_ids is None:
        memory = ops.product("bthk,bthv->bhkv", k, v, like=v)
        return ops.product("bthk,bhkv->bthv", q, memory, like=v), memory
      own = jnp.sum((q * k).astype(jnp.float32), axis=-1, keepdims=True) * v
      flipped = (jnp.flip(y, axis=1) for y in (q, k, v, segment_ids))
      after = jnp.flip(so_far(*flipped), axis=1)
      return so_far(q, k, v, segment_ids) + after - own, memory

    whole = lambda sums: ops.segments.at_last(sums, segment_ids)
    y, _ = self._flow(x, None, segment_ids, whole, attend)
    return y, None

  initial_state = Mixer.initial_state
