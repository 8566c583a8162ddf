"""The Performer, causal (Choromanski et al. 2020, arXiv:2009.14794, sec. 2.3 and 3).

phi(x) = M^-1/2 exp(W y - |y|^2 / 2),  y = x K^-1/4,   rows of W orthogonal and random
o_t = sum_j phi(q_t)^T phi(k_j) v_j / sum_j phi(q_t)^T phi(k_j),   j <= t

Attention with these weights is an estimate of softmax attention, which gets better with
M. W is drawn once, from `seed`, and the same in all heads and layers; the authors draw
it anew now and then. Their stabiliser for the keys, a maximum over the sequence, would
need the keys to come, and is left out.
"""

import math

from jaxseq.layers import feature_maps
from jaxseq.modules.linear.linear_transformer import LinearTransformer

__all__ = ["Performer"]


class Performer(LinearTransformer):
  """Attention by positive orthogonal random features, FAVOR+.

  Attributes:
    num_random_features: M. None is K log K rounded, as in the paper's theorem 4.
    seed: Of W.
  """

  num_random_features: int | None = None
  seed: int = 0

  @property
  def num_features(self) -> int:
    return self.num_random_features or max(
      1, round(self.key_size * math.log(self.key_size))
    )

  def feature_map(self, q, k):
    W = feature_maps.orthogonal_projection(self.seed, self.num_features, self.key_size)
    return feature_maps.favor_plus(q, W, shift=None), feature_maps.favor_plus(k, W)
