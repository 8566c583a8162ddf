"""Gated associative memory (GAM, Acharya 2025, arXiv:2509.00605).

    [a, b] = x W_g + b_g
    y = sigmoid(a) * conv(x) + sigmoid(b) * softmax(x M^T) M

conv is a short causal depthwise convolution. M is a bank of vectors, all of them
parameters, so that what a token reads depends on that token alone: whatever tokens
learn of one another comes through the convolution, W - 1 tokens back in each layer.
Details are those of the authors' code.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["GAM"]


class GAM(Mixer):
  """A short convolution and a reading of learned vectors, each with a gate.

  There is no projection of the output, as in the paper.

  Attributes:
    num_slots: Vectors M of the bank.
    kernel_size: Taps W of the convolution.
  """

  num_slots: int = 512
  kernel_size: int = 3

  def __post_init__(self):
    super().__post_init__()
    for count in ("num_slots", "kernel_size"):
      if getattr(self, count) < 1:
        raise ValueError(f"GAM needs {count} >= 1; got {getattr(self, count)}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    D, W = self.features, self.kernel_size
    kind = x.dtype
    x = ops.segments.clear_padding(x, segment_ids).astype(self.dtype)
    near, state = ops.short_conv(
      x,
      self._param("conv", _uniform(W), (W, D), (None, "embed")),
      self._param("conv_bias", _uniform(W), (D,), ("embed",)),
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    shape, axes = (self.num_slots, D), ("mlp", "embed")
    bank = self._param("bank", nn.initializers.xavier_uniform(), shape, axes)
    weights = nn.softmax(ops.product("btd,md->btm", x, bank, like=x))
    read = ops.product("btm,md->btd", weights, bank, like=x)
    gates = layers.projection(
      2 * D,
      ("embed", "heads"),
      use_bias=True,
      kernel_init=_uniform(D),
      bias_init=_uniform(D),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="gates",
    )(x)
    a, b = jnp.split(nn.sigmoid(gates.astype(jnp.float32)), 2, axis=-1)
    y = (a * near.astype(jnp.float32) + b * read).astype(kind)
    return ops.segments.clear_padding(y, segment_ids), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B W-1 D"]:
    return jnp.zeros((batch_size, self.kernel_size - 1, self.features))


def _uniform(fan_in):
  """PyTorch's default."""
  uniform = nn.initializers.uniform(2 * fan_in**-0.5)
  return lambda *args: uniform(*args) - fan_in**-0.5
