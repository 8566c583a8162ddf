"""PoNet (Tan et al. 2021, arXiv:2110.02442, sec. 3): tokens are mixed by pooling.

Q, K, O, S, L = x W_Q, x W_K, ... with biases, one for each pooling and its fusion

g = sum_n a_n K_n,   a = softmax_n(mean(Q)^T K_n / sqrt(K))   global aggregation (GA)
s_t = max_j S_j           over the segment of token t         max-pooling of it (SMP)
l_t = max_j L_j           over t - 1, t and t + 1             local max-pooling (LMP)
y_t = (g * O_t + s_t * O_t + l_t) W_o + b_o                   products by channel

GA has heads; the keys are its values too. The authors' segments are those of the text,
such as sentences, and their code keeps the separators of these out of SMP and LMP. Here
no tokens are special, and segments are pieces of a document of `segment_size` tokens.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["PoNet"]


class PoNet(Mixer):
  """Every token with what is largest near it, in its segment, and a global mean.

  Attributes:
    num_heads: Heads H of the global aggregation.
    segment_size: Tokens of a segment.
    implementation: That of `ops.piecewise_max`, which pools the segments.
  """

  num_heads: int = 4
  segment_size: int = 16

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"PoNet needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )
    if self.segment_size < 1:
      raise ValueError(f"PoNet needs a segment_size >= 1; got {self.segment_size}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    u = ops.segments.clear_padding(x, segment_ids)

    def project(u, name, axes=("embed", "heads")):
      return layers.projection(
        self.features,
        axes,
        use_bias=True,
        kernel_init=nn.initializers.normal(0.02),  # BERT's, in which it stands.
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(u)

    q, k, fused, segment, local = (
      project(u, name).astype(jnp.float32)
      for name in ("q", "k", "fuse", "segment", "local")
    )
    pooled = self._global(q, k, segment_ids) + ops.piecewise_max(
      segment,
      self.segment_size,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    y = project(
      pooled * fused + _local_max(local, segment_ids), "out", ("heads", "embed")
    )
    return ops.segments.clear_padding(y.astype(x.dtype), segment_ids), None

  def _global(self, q, k, segment_ids):
    """One vector for the document: [B, 1, D], or [B, T, D] of packed documents."""
    heads = lambda x: x.reshape(*x.shape[:2], self.num_heads, -1)
    query, keys = ops.documents.means(heads(q), segment_ids), heads(k)
    scores = jnp.sum(query * keys, axis=-1) * keys.shape[-1] ** -0.5
    weights = ops.documents.softmax(scores, segment_ids)
    g = ops.documents.sums(weights[..., None] * keys, segment_ids)
    return g.reshape(*g.shape[:2], -1)


def _local_max(x, segment_ids):
  """The maximum over each token and its neighbours in the document."""
  inside = ((0, 0), (1, 1), (0, 0))
  padded = jnp.pad(x, inside, constant_values=-jnp.inf)
  left, right = padded[:, :-2], padded[:, 2:]
  if segment_ids is not None:
    ids = jnp.pad(segment_ids, ((0, 0), (1, 1)))
    hide = lambda x, ids: jnp.where((ids == segment_ids)[..., None], x, -jnp.inf)
    left, right = hide(left, ids[:, :-2]), hide(right, ids[:, 2:])
  return jnp.maximum(jnp.maximum(left, x), right)
