"""LightNet in both directions: one pass (Qin et al. 2024, arXiv:2405.21022, sec. 3).

S = sum_j p_j v_j^T,    p = softmax_j(k_j) by channel, over all tokens j of the document
o_t = S^T swish(x_t W_q)

An additive recurrence ends in the same sum in whatever order it reads an image, so none
has to be scanned twice. Where a token is, queries and keys know from MD-LRPE, with
learned angles for each head. The authors add a positional convolution of the
embeddings, MD-TPE, before the first layer; it is not part of this one.
"""

import jax.numpy as jnp
from flax import linen as nn

from jaxseq import ops, positions
from jaxseq.modules.linear.lightnet import LightNet
from jaxseq.modules.mixer import Mixer

__all__ = ["BidirectionalLightNet"]


class BidirectionalLightNet(LightNet):
  """Linear attention with a softmax of the keys over all tokens.

  Attributes:
    num_heads: Heads H; the authors' have 128 channels each.
    gate_rank: Rank of the output gate.
    norm_epsilon: Of the norm over all outputs.
    grid: Rows and columns of the image; None is a sequence.
  """

  grid: tuple[int, int] | None = None

  def _attend(self, q, k, v, state, segment_ids):
    self.refuse_state(state)
    coordinates = self._coordinates(segment_ids, q.shape[:2])
    H, E = self.num_heads, -(-self.head_size // coordinates.shape[-1])
    init = nn.with_logical_partitioning(_angles, ("heads", None))
    theta = self.param("theta", init, (H, E), self.param_dtype)
    k = ops.documents.softmax(k, segment_ids)
    q, k = (positions.linear_relative(y, coordinates, theta) for y in (q, k))
    o = ops.noncausal_linear_attention(
      q,
      k,
      v,
      segment_ids=segment_ids,
      scale=self.head_size**-0.5,  # MD-LRPE doubles channels, not products.
      implementation=self.implementation,
    )
    return o, None

  def _coordinates(self, segment_ids, shape):
    """Of the tokens: rows and columns of the grid, or places in their documents."""
    B, T = shape
    if self.grid is None:
      before = jnp.zeros(B, jnp.int32)
      return ops.segments.positions(segment_ids, before, shape)[..., None]
    rows, columns = self.grid
    if rows * columns != T:
      raise ValueError(
        f"BidirectionalLightNet needs the {rows} x {columns} tokens of its grid; "
        f"got {T}"
      )
    return jnp.indices(self.grid).reshape(2, T).T[None]

  initial_state = Mixer.initial_state


def _angles(key, shape, dtype):
  """The wavelengths of rotary positions, spread over the channels of all heads."""
  del key
  number = shape[0] * shape[1]
  return (10000.0 ** (-2 / number * jnp.arange(number, dtype=dtype))).reshape(shape)
