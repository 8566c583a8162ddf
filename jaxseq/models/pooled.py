"""Models of whole sequences: one output for each, from the mean over its tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import layers
from jaxseq.models.backbone import Backbone, BackboneConfig

__all__ = ["Classifier", "Regressor"]


class _Pooled(nn.Module):
  """Embedding, stack, mean over the real tokens, linear output.

  Attributes:
    config: The stack.
    num_outputs: Classes, or numbers to predict.
    vocab_size: Number of token ids; None if the inputs are real, [B, T, F].
    stack: The class of the stack, such as `DenseBackbone`.
  """

  config: BackboneConfig
  num_outputs: int
  vocab_size: int | None = None
  stack: type[nn.Module] = Backbone

  @nn.compact
  def __call__(
    self,
    inputs: Int[Array, "B T"] | Float[Array, "B T F"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> Float[Array, "B O"]:
    """Outputs in float32. `segment_ids` is 1 at a token and 0 at padding."""
    config = self.config
    types = dict(dtype=config.dtype, param_dtype=config.param_dtype)
    if self.vocab_size is None:
      embed = layers.projection(
        config.features, (None, "embed"), use_bias=True, name="embedding", **types
      )
    else:
      init = nn.with_logical_partitioning(
        nn.initializers.normal(1.0), ("vocab", "embed")
      )
      embed = nn.Embed(
        self.vocab_size, config.features, embedding_init=init, name="embedding", **types
      )
    x, _ = self.stack(config, name="backbone")(embed(inputs), segment_ids=segment_ids)
    x = x.astype(jnp.float32)
    if segment_ids is None:
      mean = jnp.mean(x, axis=1)
    else:
      real = (segment_ids != 0)[..., None]
      mean = jnp.where(real, x, 0).sum(1) / jnp.maximum(real.sum(1), 1)
    output = layers.projection(
      self.num_outputs, ("embed", None), use_bias=True, name="output", dtype=jnp.float32
    )
    return output(mean)


class Classifier(_Pooled):
  """Gives each sequence a class."""

  def loss(self, batch: dict) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Summed cross-entropy in nats; targets [B] are classes, weights [B]."""
    logits = self(batch["inputs"], segment_ids=batch["segment_ids"])
    log_p = jax.nn.log_softmax(logits)
    targets, weights = batch["targets"], batch["weights"]
    picked = jnp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
    right = jnp.sum((logits.argmax(-1) == targets) * weights)
    return -jnp.sum(picked * weights), {"weight": jnp.sum(weights), "accuracy": right}


class Regressor(_Pooled):
  """Predicts numbers from each sequence."""

  def loss(self, batch: dict) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Summed squared error, its mean over outputs; targets [B, O], weights [B]."""
    outputs = self(batch["inputs"], segment_ids=batch["segment_ids"])
    errors = jnp.mean((outputs - batch["targets"]) ** 2, axis=-1)
    weights = batch["weights"]
    return jnp.sum(errors * weights), {"weight": jnp.sum(weights)}
