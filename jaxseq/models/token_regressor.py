"""Numbers at each token from the tokens so far, over any causal stack."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import layers, registry
from jaxseq.models.backbone import Backbone, BackboneConfig
from jaxseq.typing import State

__all__ = ["TokenRegressor"]


class TokenRegressor(nn.Module):
  """Linear input, stack, linear output.

  Attributes:
    config: The stack.
    num_outputs: Numbers O to predict at each token.

  Raises:
    ValueError: If a mixer of the stack is not causal.
  """

  config: BackboneConfig
  num_outputs: int

  def __post_init__(self):
    super().__post_init__()
    for name in self.config.pattern:
      if not registry.entry(name).causal:
        raise ValueError(
          f"a token regressor needs causal mixers; {name} sees the tokens that come"
        )

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, "B T F"],
    state: State | None = None,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T O"], State]:
    """Outputs in float32, and the state after the last token."""
    config = self.config
    embed = layers.projection(
      config.features,
      (None, "embed"),
      use_bias=True,
      name="embedding",
      dtype=config.dtype,
      param_dtype=config.param_dtype,
    )
    x, state = Backbone(config, name="backbone")(
      embed(inputs), state, segment_ids=segment_ids
    )
    output = layers.projection(
      self.num_outputs, ("embed", None), use_bias=True, name="output", dtype=jnp.float32
    )
    return output(x.astype(jnp.float32)), state

  def loss(self, batch: dict) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Summed squared error, its mean over outputs.

    Args:
      batch: inputs [B, T, F], targets [B, T, O], weights and segment_ids [B, T].

    Raises:
      ValueError: If there is not a target for each token.
    """
    outputs, _ = self(batch["inputs"], segment_ids=batch["segment_ids"])
    targets, weights = batch["targets"], batch["weights"]
    if targets.shape != outputs.shape:
      raise ValueError(
        f"a token regressor needs targets [B, T, O] = {outputs.shape}; "
        f"got {targets.shape}"
      )
    errors = jnp.mean((outputs - targets) ** 2, axis=-1)
    return jnp.sum(errors * weights), {"weight": jnp.sum(weights)}

  @nn.nowrap
  def initial_state(self, batch_size: int) -> State:
    return Backbone(self.config).initial_state(batch_size)
