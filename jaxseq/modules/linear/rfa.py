"""Random feature attention (Peng et al. 2021, arXiv:2103.02143, sec. 3).

phi(x) = M^-1/2 [sin(W x), cos(W x)],  W = sigma * random,  x of norm one
g_t = sigmoid(x_t w + b)                                      a number for each head
S_t = g_t S_{t-1} + (1 - g_t) phi(k_t) v_t^T,    z_t likewise without v_t
o_t = S_t^T phi(q_t) / z_t^T phi(q_t)

With a sentential gate (Wu et al. 2022, arXiv:2210.08431, sec. 3) the past fades where a
sentence starts and nowhere else: f_t = sigmoid(x_t w + b) there, 1 at other tokens.

S_t = f_t S_{t-1} + phi(k_t) v_t^T,              z_t likewise without v_t

The random numbers are drawn once, from `seed`, for each head; the authors have a pool
of them to draw from at each step. sigma is learned.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxseq import layers, ops
from jaxseq.layers import feature_maps
from jaxseq.modules.linear.linear_transformer import LinearTransformer

__all__ = ["RandomFeatureAttention", "SententialRandomFeatureAttention"]


class RandomFeatureAttention(LinearTransformer):
  """Attention by random Fourier features, with a gate for recency.

  Attributes:
    num_projections: M; a query or key has 2 M features.
    seed: Of the random projections.
  """

  num_projections: int = 64
  seed: int = 0

  # The kernel of vectors of norm one is at least exp(-2), at sigma = 1. What is less is
  # an error of its estimate, which may be negative. (The authors' code has 1, ungated.)
  least_denominator = 0.1

  @property
  def num_features(self) -> int:
    return 2 * self.num_projections

  def feature_map(self, q, k):
    shape = (self.num_heads, self.num_projections, self.key_size)
    init = nn.with_logical_partitioning(nn.initializers.ones, ("heads", None, None))
    sigma = self.param("sigma", init, (shape[0], 1, shape[2]), self.param_dtype)
    W = sigma * feature_maps.gaussian_projection(self.seed, *shape)
    q, k = (feature_maps.random_fourier(layers.l2_normalize(y), W) for y in (q, k))
    return q, k

  def _gate(self, x):
    return self._project(x, self.num_heads, "gate").astype(jnp.float32)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    real = ops.segments.clear_padding(x, segment_ids)
    q, k, v = self._heads(real)
    q, k = self.feature_map(q, k)
    gate = self._gate(real)
    k *= nn.sigmoid(-gate)[..., None]
    o, state = self._attend(q, k, v, state, segment_ids, log_decay=nn.log_sigmoid(gate))
    return self._output(o, x, segment_ids), state


class SententialRandomFeatureAttention(RandomFeatureAttention):
  """Random feature attention whose memory fades from sentence to sentence."""

  @nn.compact
  def __call__(
    self,
    x,
    state=None,
    *,
    segment_ids=None,
    sentence_starts: Bool[Array, "B T"] | None = None,
  ):
    """As the contract says, and with sentences.

    Args:
      x: Inputs.
      state: What the tokens before left.
      segment_ids: Packed documents.
      sentence_starts: True at the first token of each sentence. None is one sentence.
    """
    real = ops.segments.clear_padding(x, segment_ids)
    q, k, v = self._heads(real)
    q, k = self.feature_map(q, k)
    log_decay = nn.log_sigmoid(self._gate(real))
    starts = False if sentence_starts is None else sentence_starts[..., None]
    o, state = self._attend(
      q, k, v, state, segment_ids, log_decay=jnp.where(starts, log_decay, 0)
    )
    return self._output(o, x, segment_ids), state
