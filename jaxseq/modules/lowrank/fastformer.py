"""Fastformer (Wu et al. 2021, arXiv:2108.09084), both ways and causal.

alpha = softmax_t(w_q^T q_t / sqrt(K)),   q = sum_t alpha_t q_t       one for all tokens
p_t = q * k_t
beta = softmax_t(w_k^T p_t / sqrt(K)),    k = sum_t beta_t p_t
y_t = W_o (k * q_t) + q_t                 values share the projection of the queries

The score of a head sees the queries of all heads, as in the authors' code. Sums over a
document are running means, read at its last token.

The causal form is an extension of ours: each token has the sums over the tokens so far,
and its own p_t keeps the q that it was made with.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["CausalFastformer", "Fastformer", "FastformerState", "Pool"]


class Pool(NamedTuple):
  """A mean weighted by exponentials, and the logarithm of the sum of the weights."""

  mean: Float[Array, "B HK"]
  log_weight: Float[Array, "B H"]


class FastformerState(NamedTuple):
  """The means over the tokens so far."""

  q: Pool
  k: Pool


class Fastformer(Mixer):
  """Additive attention, every token with one summary of the document.

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

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    whole = lambda means: ops.documents.last(means, segment_ids)
    y, _ = self._mix(x, FastformerState(None, None), segment_ids, whole)
    return y, None

  def _mix(self, x, before, segment_ids, read):
    """Outputs, and the means after the last token.

    `read` makes of the means so far, at each token, those that the token is to see.
    """
    kind = x.dtype
    x = ops.segments.clear_padding(x, segment_ids)

    def project(x, width, name, axes, use_bias=True):
      return layers.projection(
        width,
        axes,
        use_bias=use_bias,
        kernel_init=nn.initializers.normal(0.02),  # BERT's, in which it stands.
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(x)

    def pool(x, name, before):
      # No bias, as the authors' code has: the softmax would not see it.
      scores = project(x, self.num_heads, name, ("heads", None), use_bias=False)
      scores = scores.astype(jnp.float32) * (self.features // self.num_heads) ** -0.5
      means, after = _running_means(scores, x, before, segment_ids, self.implementation)
      return read(means), after

    q = project(x, self.features, "q", ("embed", "heads"))
    k = project(x, self.features, "k", ("embed", "heads"))
    global_q, q_after = pool(q, "q_score", before.q)
    global_k, k_after = pool(global_q * k, "k_score", before.k)
    y = project(global_k * q, self.features, "out", ("heads", "embed")) + q
    y = ops.segments.clear_padding(y.astype(kind), segment_ids)
    return y, FastformerState(q_after, k_after)


class CausalFastformer(Fastformer):
  """Additive attention to the tokens so far. Our extension, not of the paper."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    state = self.initial_state(x.shape[0]) if state is None else state
    return self._mix(x, state, segment_ids, lambda means: means)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> FastformerState:
    # The log of zero, as `ops.softmax_writes` has it.
    log_weight = jnp.full((batch_size, self.num_heads), -1e30)
    empty = Pool(jnp.zeros((batch_size, self.features)), log_weight)
    return FastformerState(empty, empty)


def _running_means(scores, x, before, segment_ids, implementation):
  """Means of x [B, T, HK] over the tokens so far, weighted by exp(scores) in each head.

  Each is the last one moved towards x by the new token's share of all weights.
  """
  mean, log_weight = (None, None) if before is None else before
  if log_weight is not None:
    log_weight = log_weight[..., None]
  write, log_decay, log_weight = ops.softmax_writes(
    scores[..., None], log_weight, segment_ids
  )
  width = x.shape[-1] // scores.shape[-1]
  channels = lambda weight: jnp.repeat(weight[..., 0], width, axis=-1)
  means, mean = ops.diagonal_recurrence(
    channels(jnp.exp(log_decay)),
    channels(write) * x,
    initial_state=mean,
    segment_ids=segment_ids,
    implementation=implementation,
  )
  return means, Pool(mean, log_weight[..., 0])
