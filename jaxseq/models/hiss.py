"""HiSS, a hierarchy of two sequence models (Bhirangi et al. 2024, arXiv:2402.10211).

    s_j = last output of the low stack over samples j k .. j k + k - 1
    y_j = high stack over s_1 .. s_j

For sensors that are read much faster than what is to be predicted changes. The low
stack begins anew with each chunk of k samples, so that all chunks run side by side; the
high one runs once a chunk. Both are stacks of any mixers; the paper's are S4 and Mamba.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseq import layers, ops
from jaxseq.models.backbone import Backbone, BackboneConfig
from jaxseq.typing import State

__all__ = ["HiSS", "HiSSState"]


class HiSSState(NamedTuple):
  """What streaming carries.

  Attributes:
    low: The low stack's state in the present chunk.
    high: The high stack's, after the last full chunk.
    count: Samples of the present chunk that were read.
    prediction: That of the last full chunk; zeros before the first.
  """

  low: State
  high: State
  count: Int[Array, ""]
  prediction: Float[Array, "B O"]


class HiSS(nn.Module):
  """Predicts numbers at the rate of chunks from numbers at the rate of samples.

  Attributes:
    low: The stack over the samples of a chunk.
    high: The stack over chunks.
    chunk_size: Samples k of a chunk.
    num_outputs: Numbers to predict for each chunk.
  """

  low: BackboneConfig
  high: BackboneConfig
  chunk_size: int
  num_outputs: int

  def __post_init__(self):
    super().__post_init__()
    if self.chunk_size < 1:
      raise ValueError(f"HiSS needs chunk_size >= 1; got {self.chunk_size}")

  def setup(self):
    def linear(config, width, axes):
      types = dict(dtype=config.dtype, param_dtype=config.param_dtype)
      return layers.projection(width, axes, use_bias=True, **types)

    self.embedding = linear(self.low, self.low.features, (None, "embed"))
    self.low_stack = Backbone(self.low)
    self.summary = linear(self.high, self.high.features, ("embed", "embed_out"))
    self.high_stack = Backbone(self.high)
    self.output = layers.projection(
      self.num_outputs, ("embed", None), use_bias=True, dtype=jnp.float32
    )

  def __call__(
    self,
    inputs: Float[Array, "B T F"],
    state: State | None = None,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T/k O"], State]:
    """Predictions of whole chunks.

    Args:
      inputs: Samples; T is a multiple of k.
      state: That of the high stack after the chunks before. The empty state if None.
      segment_ids: Packed documents; see `ops.segments`. Documents and padding begin
        and end with chunks.

    Returns:
      Predictions in float32, and the state of the high stack.

    Raises:
      ValueError: If k does not divide T.
    """
    (B, T, F), k = inputs.shape, self.chunk_size
    if T % k:
      raise ValueError(f"HiSS needs T, a multiple of chunk_size = {k}; got {T}")
    chunks = ops.segments.clear_padding(inputs, segment_ids).reshape(B * T // k, k, F)
    ids = None if segment_ids is None else segment_ids.reshape(len(chunks), k)
    x, _ = self.low_stack(self._embed(chunks), segment_ids=ids)
    last = x[:, -1].reshape(B, T // k, -1)
    ids = None if segment_ids is None else segment_ids[:, k - 1 :: k]
    y, state = self._predict(last, state, ids)
    return ops.segments.clear_padding(y, ids), state

  def step(
    self, sample: Float[Array, "B F"], state: HiSSState
  ) -> tuple[Float[Array, "B O"], Bool[Array, ""], HiSSState]:
    """Reads one sample of each stream.

    Args:
      sample: The next samples.
      state: What the samples before left.

    Returns:
      The newest prediction, whether it is new, as with every k-th sample, and the
      state.
    """
    x, low = self.low_stack(self._embed(sample[:, None]), state.low)
    prediction, high = self._predict(x, state.high)
    full = state.count + 1 == self.chunk_size
    pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(full, a, b), new, old)
    empty = Backbone(self.low, parent=None).initial_state(len(sample))
    after = HiSSState(
      pick(empty, low),
      pick(high, state.high),
      jnp.where(full, 0, state.count + 1),
      pick(prediction[:, 0], state.prediction),
    )
    return after.prediction, full, after

  def _embed(self, inputs):
    return self.embedding(inputs.astype(self.low.dtype))

  def _predict(self, x, state=None, segment_ids=None):
    x = self.summary(x.astype(self.high.dtype))
    x, state = self.high_stack(x, state, segment_ids=segment_ids)
    return self.output(x.astype(jnp.float32)), state

  def loss(self, batch: dict) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Summed squared error, its mean over outputs.

    Args:
      batch: inputs [B, T, F], segment_ids [B, T], targets [B, T / k, O] and weights
        [B, T / k].
    """
    outputs, _ = self(batch["inputs"], segment_ids=batch["segment_ids"])
    errors = jnp.mean((outputs - batch["targets"]) ** 2, axis=-1)
    weights = batch["weights"]
    return jnp.sum(errors * weights), {"weight": jnp.sum(weights)}

  @nn.nowrap
  def initial_state(self, batch_size: int) -> HiSSState:
    """Of streaming. Its `high` is the state of whole chunks."""
    low, high = (
      Backbone(config, parent=None).initial_state(batch_size)
      for config in (self.low, self.high)
    )
    prediction = jnp.zeros((batch_size, self.num_outputs))
    return HiSSState(low, high, jnp.zeros((), jnp.int32), prediction)
