"""RWKV-4 (Peng et al. 2023, arXiv:2305.13048, sec. 3).

    x^c_t = mu_c * x_t + (1 - mu_c) * x_{t-1}                 c of r, k, v
    time mixing:     y_t = (sigmoid(x^r_t W_r) * wkv(x^k W_k, x^v W_v)_t) W_o
    channel mixing:  y_t = sigmoid(x^r_t W_r) * (max(x^k_t W_k, 0)^2 W_v)

wkv averages the values up to t at weights that fade by exp(-exp(w)); see `ops.wkv`. A
block is both, each after a norm: the pattern ("rwkv4", "rwkv4_channel_mix") with no MLP
is the paper's stack. Initial values are those of the authors' code for the first layer;
there they change with depth, which a mixer does not know.
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.rnn import wkv

__all__ = ["RWKV4", "RWKV4ChannelMix", "RWKV4State"]


class RWKV4State(NamedTuple):
  """What time mixing carries: the sums, and the last token for the token shift."""

  memory: ops.WKVState
  last: Float[Array, "B D"]


class RWKV4(Mixer):
  """The time mixing: an average of the past that fades by channel.

  Attributes:
    out_init: Of the output matrix. With the authors' zeros the layer begins as nothing.
  """

  out_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    D = self.features
    memory, last = (None, None) if state is None else state
    u = ops.segments.clear_padding(x, segment_ids)
    before, last = ops.token_shift(u, last, segment_ids)

    def mixed(name, power, init):
      mu = _mu(self, name, power)
      y = (mu * u + (1 - mu) * before).astype(self.dtype)
      return _project(self, y, D, name, init)

    k = mixed("k", 1.0, nn.initializers.zeros)
    v = mixed("v", 1.0, nn.initializers.orthogonal())
    gate = nn.sigmoid(mixed("r", 0.5, nn.initializers.zeros).astype(jnp.float32))
    log_decay = -jnp.exp(_param(self, "decay", _decay_init, "heads"))
    self.show(log_decay=jnp.broadcast_to(log_decay, x.shape))
    average, memory = ops.wkv(
      k.astype(jnp.float32),
      v.astype(jnp.float32),
      log_decay,
      _param(self, "bonus", _bonus_init, "heads"),
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    y = (gate * average).astype(self.dtype)
    y = _project(self, y, D, "out", self.out_init, ("heads", "embed"))
    y = ops.segments.clear_padding(y.astype(x.dtype), segment_ids)
    return y, RWKV4State(memory, last)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> RWKV4State:
    shape = (batch_size, self.features)
    return RWKV4State(wkv.empty(shape, jnp.float32), jnp.zeros(shape))


class RWKV4ChannelMix(Mixer):
  """The channel mixing: an MLP that sees the token before, too.

  The mix of two tokens is a convolution of two taps, mu and 1 - mu.

  Attributes:
    expand: Inner width, as a multiple of `features`.
    out_init: Of the output matrix. With the authors' zeros the layer begins as nothing.
  """

  expand: int = 4
  out_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    D, inner = self.features, self.expand * self.features
    u = ops.segments.clear_padding(x, segment_ids)

    def mixed(name):
      mu = _mu(self, name, 1.0)
      y, last = ops.short_conv(
        u,
        jnp.stack([1 - mu, mu]),
        initial_state=state,
        segment_ids=segment_ids,
        implementation=self.implementation,
      )
      return y.astype(self.dtype), last

    (keys, last), (receptance, _) = mixed("k"), mixed("r")
    wide = nn.initializers.orthogonal(math.sqrt(self.expand))
    k = _project(self, keys, inner, "k", wide, ("embed", "mlp"))
    v = _project(self, nn.relu(k) ** 2, D, "v", self.out_init, ("mlp", "embed"))
    zeros = nn.initializers.zeros
    r = _project(self, receptance, D, "r", zeros, ("embed", "embed_out"))
    y = (nn.sigmoid(r.astype(jnp.float32)) * v).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), last

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B 1 D"]:
    return jnp.zeros((batch_size, 1, self.features))


def _mu(mixer, name, power):
  init = functools.partial(_mu_init, power=power)
  return _param(mixer, f"mu_{name}", init, "embed")


def _param(mixer, name, init, axis):
  """One number for each channel."""
  init = nn.with_logical_partitioning(init, (axis,))
  return mixer.param(name, init, (mixer.features,), mixer.param_dtype)


def _project(mixer, x, width, name, init, axes=("embed", "heads")):
  return layers.projection(
    width,
    axes,
    kernel_init=init,
    dtype=mixer.dtype,
    param_dtype=mixer.param_dtype,
    name=name,
  )(x)


def _mu_init(key, shape, dtype, power):
  return ((jnp.arange(shape[0]) / shape[0]) ** power).astype(dtype)


def _decay_init(key, shape, dtype):
  """From -5, slow, to 3, gone in one step."""
  return (-5 + 8 * jnp.linspace(0, 1, shape[0]) ** 0.7).astype(dtype)


def _bonus_init(key, shape, dtype):
  """log 0.3, and half of 0, 1, -1, 0, ... over the channels."""
  zigzag = (jnp.arange(shape[0]) + 1) % 3 - 1
  return (math.log(0.3) + 0.5 * zigzag).astype(dtype)
