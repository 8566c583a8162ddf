"""The time mixing of RWKV-7, Goose (Peng et al. 2025, arXiv:2503.14456, sec. 4).

x^c_t = x_t + (x_{t-1} - x_t) * mu_c                             c of r, w, k, v, a, g
g_t = -e^-1/2 sigmoid(w + tanh(x^w_t A_w) B_w)                   log decays by channel
a_t = sigmoid(a + x^a_t A_a B_a)                                 learning rates
k^_t = (k_t * xi) / |k_t * xi|,    k~_t = k_t * (1 + (a_t - 1) * alpha)
S_t = (diag(exp(g_t)) - (a_t * k^_t) k^_t^T) S_{t-1} + k~_t v_t^T
p_t = norm(S_t^T r_t) + (r_t . (rho * k~_t)) v_t
y_t = (p_t * (sigmoid(x^g_t A_g) B_g)) W_o

(The paper's state is the transpose.) In the paper the layers after the first mix the
first layer's values into theirs. A mixer sees no other layer, so each is a first one
here, also in its initial values, those of the authors' code.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["RWKV7", "RWKV7State"]

# Exponent p of the initial mu = 1 - (channel / D)^p.
MIX_POWERS = dict(r=0.2, w=0.9, k=0.7, v=0.7, a=0.9, g=0.2)
NORM_EPSILON = 64e-5


class RWKV7State(NamedTuple):
  """What the layer carries: the memory, and the last token for the token shift."""

  memory: Float[Array, "B H K K"]
  last: Float[Array, "B D"]


class RWKV7(Mixer):
  """A delta rule with decays and learning rates by channel.

  Attributes:
    num_heads: Heads H; the authors' have 64 channels each.
  """

  num_heads: int = 4

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"{type(self).__name__} needs num_heads that divide features = "
        f"{self.features}; got {self.num_heads}"
      )

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    memory, last = (None, None) if state is None else state
    x = ops.segments.clear_padding(x, segment_ids)
    before, last = ops.token_shift(x, last, segment_ids)
    mixed = self._mix(x.astype(self.dtype), (before - x).astype(self.dtype))

    r = self._heads(self._project(mixed["r"], "r", nn.initializers.orthogonal()))
    tokens = self._tokens(mixed)
    o, after = self._read(r, tokens, memory, segment_ids)
    norm = layers.HeadNorm(
      NORM_EPSILON, use_bias=True, param_dtype=self.param_dtype, name="norm"
    )
    k, v = tokens[:2]
    bonus = k * self._own("bonus", nn.initializers.constant(-0.04))
    present = jnp.sum(r * bonus, axis=-1, keepdims=True) * v
    p = norm(o) + present.reshape(x.shape).astype(o.dtype)
    gate = self._low_rank(mixed["g"], 5.0, "gate", nn.sigmoid)
    y = self._project(p * gate, "out", nn.initializers.zeros, ("heads", "embed"))
    y = self._finish(x, y.astype(x.dtype), tokens, memory, segment_ids)
    return ops.segments.clear_padding(y, segment_ids), RWKV7State(after, last)

  def _finish(self, x, y, tokens, memory, segment_ids):
    """For layers that derive from this one."""
    del x, tokens, memory, segment_ids
    return y

  def _read(self, r, tokens, memory, segment_ids):
    """What the memory holds under r, and the memory after the last token."""
    k, v, a, b, log_decay = tokens
    return ops.dplr(
      r,
      k,
      v,
      a,
      b,
      log_decay,
      initial_state=memory,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )

  def _tokens(self, mixed):
    """What each token does to the memory: k~, v, a * k^, -k^ and the log decay."""
    orthogonal = nn.initializers.orthogonal
    k = self._heads(self._project(mixed["k"], "k", orthogonal(0.1)))
    v = self._heads(self._project(mixed["v"], "v", orthogonal()))
    low = self._low_rank(mixed["w"], 2.5, "decay", jnp.tanh).astype(jnp.float32)
    w = self._heads(low) + self._own("decay", _decay_init)
    low = self._low_rank(mixed["a"], 2.5, "rate").astype(jnp.float32)
    rate = nn.sigmoid(self._heads(low) + self._own("rate", _rate_init))
    direction = layers.l2_normalize(k * self._own("direction", _direction_init), 1e-12)
    k = k * (1 + (rate - 1) * self._own("key_rate", nn.initializers.constant(1.02)))
    log_decay = -jnp.exp(-0.5) * nn.sigmoid(w)
    self.show(log_decay=log_decay)
    return k.astype(self.dtype), v, rate * direction, -direction, log_decay

  def _mix(self, x, step):
    """Tokens on the way to their predecessors, as far as each use of them wants."""

    def mu(name, power):
      init = functools.partial(_mix_init, power=power)
      init = nn.with_logical_partitioning(init, ("embed",))
      shape = (self.features,)
      return self.param(f"mu_{name}", init, shape, self.param_dtype).astype(self.dtype)

    return {c: x + step * mu(c, power) for c, power in MIX_POWERS.items()}

  def _heads(self, y):
    return y.reshape(*y.shape[:2], self.num_heads, self.head_size)

  def _own(self, name, init):
    """A parameter for each channel of each head, [H, K]."""
    init = nn.with_logical_partitioning(init, ("heads", None))
    return self.param(name, init, (self.num_heads, self.head_size), self.param_dtype)

  def _low_rank(self, x, share, name, activation=lambda y: y):
    """activation(x A) B, of rank about share times the root of D."""
    rank = max(32, round(share * self.features**0.5 / 32) * 32)
    axes = ("embed", None), (None, "heads")
    down = self._project(x, f"{name}_down", nn.initializers.zeros, axes[0], rank)
    return self._project(
      activation(down), f"{name}_up", nn.initializers.orthogonal(0.1), axes[1]
    )

  def _project(self, x, name, init, axes=("embed", "heads"), width=None):
    return layers.projection(
      width or self.features,
      axes,
      kernel_init=init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> RWKV7State:
    K = self.head_size
    memory = jnp.zeros((batch_size, self.num_heads, K, K))
    return RWKV7State(memory, jnp.zeros((batch_size, self.features)))


def _mix_init(key, shape, dtype, power):
  return (1 - (jnp.arange(shape[0]) / shape[0]) ** power).astype(dtype)


def _ramp(shape):
  """From -1/2 to 1/2 over the channels of all heads."""
  return jnp.linspace(-0.5, 0.5, shape[0] * shape[1]).reshape(shape)


def _zigzag(shape):
  """From -1 to 1 over each head, flat in the middle."""
  x = jnp.linspace(-1.0, 1.0, shape[1])
  return x * jnp.abs(x)


def _decay_init(key, shape, dtype):
  """From slow, -5.5, to fast, 0.5, and less or more within each head."""
  return (-5.5 + 6 * (_ramp(shape) + 0.5) + 2.5 * _zigzag(shape)).astype(dtype)


def _rate_init(key, shape, dtype):
  return (-0.19 + 0.3 * _zigzag(shape) + 0.4 * _ramp(shape)).astype(dtype)


def _direction_init(key, shape, dtype):
  return (0.71 - 0.1 * _ramp(shape)).astype(dtype)
