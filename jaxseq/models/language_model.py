"""An autoregressive language model over any stack."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import layers, ops, registry
from jaxseq.models.backbone import Backbone, BackboneConfig
from jaxseq.typing import State

__all__ = ["LanguageModel"]


class LanguageModel(nn.Module):
  """Predicts the next token.

  Attributes:
    config: The stack.
    vocab_size: Number W of token ids.
    tie_embeddings: Whether the output matrix is the transposed embedding.

  Raises:
    ValueError: If a mixer of the stack is not causal.
  """

  config: BackboneConfig
  vocab_size: int
  tie_embeddings: bool = True

  def __post_init__(self):
    super().__post_init__()
    for name in self.config.pattern:
      if not registry.entry(name).causal:
        raise ValueError(
          f"a language model needs causal mixers; {name} sees the tokens that come"
        )

  def setup(self):
    normal = nn.initializers.normal(0.02)
    shape = (self.vocab_size, self.config.features)
    embed = nn.with_logical_partitioning(normal, ("vocab", "embed"))
    self.embedding = self.param("embedding", embed, shape, self.config.param_dtype)
    if not self.tie_embeddings:
      head = nn.with_logical_partitioning(normal, ("embed", "vocab"))
      self.head = self.param("head", head, shape[::-1], self.config.param_dtype)
    self.backbone = Backbone(self.config)

  def hidden(self, tokens, state=None, *, segment_ids=None):
    """Hidden states under the output matrix, and the state after the last token."""
    x = self.embedding.astype(self.config.dtype)[tokens]
    x = nn.with_logical_constraint(x, ("batch", "time", None))
    x, state = self.backbone(x, state, segment_ids=segment_ids)
    return x.astype(self.config.dtype), state

  def output_matrix(self):
    return self.embedding.T if self.tie_embeddings else self.head

  def __call__(
    self,
    tokens: Int[Array, "B T"],
    state: State | None = None,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T W"], State]:
    """Logits of each next token in float32, and the state after the last token."""
    x, state = self.hidden(tokens, state, segment_ids=segment_ids)
    return ops.product("btd,dw->btw", x, self.output_matrix(), like=x), state

  def loss(self, batch: dict) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The summed loss of a batch in nats, with what it is summed over.

    Args:
      batch: inputs, targets, weights and segment_ids, each [B, T].
    """
    x, _ = self.hidden(batch["inputs"], segment_ids=batch["segment_ids"])
    loss, right = layers.cross_entropy(
      x, self.output_matrix(), batch["targets"], batch["weights"]
    )
    return loss, {"weight": jnp.sum(batch["weights"]), "accuracy": right}

  @nn.nowrap
  def initial_state(self, batch_size: int) -> State:
    return Backbone(self.config).initial_state(batch_size)
