"""A stack whose layers see weighted averages of all earlier ones.

y_0 = x,  y_l = layer_l(norm(sum_{i < l} w_li y_i)),  output norm(sum_{i <= L} w_i y_i)

(MambaMixer, Behrouz et al. 2024, arXiv:2403.19888, sec. 3.1, after DenseFormer,
Pagliardini et al. 2024, arXiv:2402.02622.)
There layers that mix tokens alternate with layers that mix channels, so that the w_li
are its alpha, beta, theta and gamma. The weights begin at one, where this is a residual
stack; that and the norms of the inputs are ours.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import layers
from jaxseq.models.backbone import REMAT, BackboneConfig
from jaxseq.typing import State

__all__ = ["DenseBackbone"]


class DenseBackbone(nn.Module):
  """The stack, from embeddings to normalised hidden states.

  No scan runs over the layers, so that each earlier output is held once, not once for
  each layer that sees it.

  Attributes:
    config: Its shape. The pattern of MambaMixer's two models: ViM2 is
      ("cross_scan_mamba", "selective_channel_mixer"), TSM2 ("mamba",
      "selective_channel_mixer"), both with mlp "none".
  """

  config: BackboneConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B T D"],
    state: State | None = None,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T D"], State]:
    """Applies all layers; the contract is that of a mixer.

    The state is a tuple over the layers.
    """
    config = self.config
    outputs, states = [x], []

    def average(name):
      ones = nn.with_logical_partitioning(nn.initializers.ones, (None,))
      shape = (len(outputs),)
      weights = self.param(f"{name}_weights", ones, shape, config.param_dtype)
      total = sum(w * y.astype(jnp.float32) for w, y in zip(weights, outputs))
      norm = layers.RMSNorm(param_dtype=config.param_dtype, name=f"{name}_norm")
      return norm(total.astype(x.dtype))

    def run(mixer, x, state):
      return mixer(x.astype(config.dtype), state, segment_ids=segment_ids)

    if config.remat != "none":
      run = nn.remat(run, policy=REMAT[config.remat])
    for layer in range(config.num_layers):
      place = layer % len(config.pattern)
      name = f"mixer_{layer}"
      mixer = config.mixer(config.pattern[place], place, name=name)
      y, after = run(mixer, average(name), None if state is None else state[layer])
      outputs.append(y)
      states.append(after)
      mlp = config.mlp_after(place, name=f"mlp_{layer}")
      if mlp is not None:
        outputs.append(mlp(average(f"mlp_{layer}").astype(config.dtype)))
    return average("final"), tuple(states)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> State:
    """The empty states of all layers."""
    config = self.config
    places = [layer % len(config.pattern) for layer in range(config.num_layers)]
    mixers = (config.mixer(config.pattern[place], place) for place in places)
    return tuple(mixer.initial_state(batch_size) for mixer in mixers)
