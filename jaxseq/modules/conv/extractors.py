"""The Extractors, in the place of attention (Chen 2023, arXiv:2308.07661).

    e_t = sum_l x_{t-l} W_l / n_t^1/2,    y_t = e_t * (x_t W_a)       l = 0 .. n_t - 1

First each of the last L tokens is weighted by how far back it is, whatever it is, and
then the sum is adjusted to the token itself; n_t is the number of these tokens. There
are four, of less and less cost:

    SHE   W_l is a matrix                            L D^2 + D^2 parameters
    HE    W_l = V diag(w_l)                          L D + 2 D^2
    WE    W_l = w_l V, w_l a number                  L + 2 D^2
    ME    W_l = w_l                                  L + D^2

The paper's equations could not be looked up. SHE follows a public implementation of it
and of its successor (arXiv:2311.12678), the root included, where a W belongs to a place
in the sequence; that it belongs to a distance here is ours. The abstract says that the
others are simplifications of SHE of less cost; which weights they give up is ours.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["HE", "ME", "SHE", "WE", "ExtractorState"]


class ExtractorState(NamedTuple):
  """What an extractor carries.

  Attributes:
    window: The last inputs of the sum.
    length: Tokens of the document so far, those that left the window included.
  """

  window: Float[Array, "B L-1 D"]
  length: Int[Array, "B"]


class SHE(Mixer):
  """The super high-performance extractor: a matrix for each of the last tokens.

  Attributes:
    context: Tokens L that are seen.
  """

  context: int = 64

  def __post_init__(self):
    super().__post_init__()
    if self.context < 1:
      raise ValueError(f"{type(self).__name__} needs context >= 1; got {self.context}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    kind = x.dtype
    x = ops.segments.clear_padding(x, segment_ids).astype(self.dtype)
    length = jnp.zeros(B, jnp.int32) if state is None else state.length
    e, window = self._extract(x, None if state is None else state.window, segment_ids)
    position = ops.segments.positions(segment_ids, length, (B, T))
    number = jnp.minimum(position + 1, self.context)[..., None].astype(jnp.float32)
    adjust = self._project(x, "adjust").astype(jnp.float32)
    y = (e.astype(jnp.float32) * jax.lax.rsqrt(number) * adjust).astype(kind)
    length = ops.segments.length_after(segment_ids, length, T)
    y = ops.segments.clear_padding(y, segment_ids)
    return y, ExtractorState(window, length)

  def _extract(self, x, window, segment_ids):
    """The weighted sum and the inputs after it."""
    init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
    shape = (self.context, self.features, self.features)
    return ops.dense_conv(
      x,
      self._param("weights", init, shape, (None, "embed", "heads")),
      initial_state=window,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _project(self, x, name):
    return layers.projection(
      self.features,
      ("embed", "heads"),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ExtractorState:
    window = jnp.zeros((batch_size, self.context - 1, self.features))
    return ExtractorState(window, jnp.zeros(batch_size, jnp.int32))


class HE(SHE):
  """The higher-performance extractor: a vector for each of the last tokens."""

  def _extract(self, x, window, segment_ids):
    shape = (self.context, self.features)
    kernel = self._param("weights", nn.initializers.normal(1.0), shape, (None, "heads"))
    return self._sum(self._project(x, "values"), kernel, window, segment_ids)

  def _sum(self, v, kernel, window, segment_ids):
    return ops.fft_conv(
      v,
      kernel,
      initial_state=window,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )


class WE(HE):
  """The worthwhile extractor: a number for each of the last tokens."""

  def _extract(self, x, window, segment_ids):
    return self._sum(self._project(x, "values"), self._numbers(), window, segment_ids)

  def _numbers(self):
    """Those of the tokens, the same for all channels."""
    init = nn.initializers.normal(1.0)
    kernel = self._param("weights", init, (self.context,), (None,))
    return jnp.broadcast_to(kernel[:, None], (self.context, self.features))


class ME(WE):
  """The minimalist extractor: a number for each of the last inputs themselves."""

  def _extract(self, x, window, segment_ids):
    return self._sum(x, self._numbers(), window, segment_ids)
