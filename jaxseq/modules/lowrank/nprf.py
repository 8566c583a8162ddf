"""NPRF with relative positions (Luo et al. 2021, arXiv:2106.12566).

phi(x) = M^-1/2 exp(W x / |x| - 1 / 2)             rows of W orthogonal and random
o_i = sum_j e^{b_{i-j}} phi(q_i)^T phi(k_j) v_j / sum_j e^{b_{i-j}} phi(q_i)^T phi(k_j)

Queries and keys of length one keep the variance of the features small, so that the
model can be trained from scratch; the learned b gives back what is then lost in
sharpness. b stands for distances up to `max_length`, and the state is a cache of the
features of the keys, and of the values.
"""

import flax.linen as nn

from jaxseq import layers, ops
from jaxseq.layers import feature_maps
from jaxseq.modules.linear.linear_transformer import LinearTransformer

__all__ = ["NPRF"]


class NPRF(LinearTransformer):
  """Kernelised attention with relative positions, by FFT.

  Attributes:
    num_random_features: M. K if None.
    seed: Of W, which is the same in all heads and layers.
    max_length: Tokens of a document that the cache holds. A call may not have more, and
      outputs of decode steps past it are NaN.
  """

  num_random_features: int | None = None
  seed: int = 0
  max_length: int = 2048

  @property
  def num_features(self) -> int:
    return self.num_random_features or self.key_size

  def feature_map(self, q, k):
    W = feature_maps.orthogonal_projection(self.seed, self.num_features, self.key_size)
    unscaled = self.key_size**0.25  # The map has a scale of K^-1/4, the paper none.

    def phi(x):
      x = unscaled * layers.l2_normalize(x)
      return feature_maps.favor_plus(x, W, epsilon=0.0).astype(self.dtype)

    return phi(q), phi(k)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    if T > self.max_length:
      raise ValueError(
        f"NPRF needs max_length of at least the {T} tokens of a call; "
        f"got {self.max_length}"
      )
    q, k, v = self._heads(ops.segments.clear_padding(x, segment_ids))
    q, k = self.feature_map(q, k)
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("heads", None))
    shape = (self.num_heads, self.max_length)
    o, after = ops.toeplitz_attention(
      q,
      k,
      v,
      self.param("relative_bias", zeros, shape, self.param_dtype),
      initial_state=state,
      segment_ids=segment_ids,
      scale=1.0,
      epsilon=self.least_denominator,
      implementation=self.implementation,
    )
    if state is None:  # Dropped by the compiler where it is not used, as in training.
      after = ops.kv_cache.append(self.initial_state(B), k, v, segment_ids)
    return self._output(o, x, segment_ids), after

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.kv_cache.KVCache:
    return ops.kv_cache.empty(
      batch_size,
      self.max_length,
      self.num_heads,
      self.num_features,
      self.value_size,
      self.dtype,
    )
