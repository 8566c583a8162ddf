"""pLSTM on grids and on sequences (Poeppel et al. 2025, arXiv:2506.11997).

q, k, v = x W + b,   s, m = sigmoid(x W + b),   d = sigmoid(b)     b is -4, -4 and -6
y = norm(o) W_o                                  by heads; o of `ops.plstm_2d`

On a grid there are Sources s, Transitions T and Marks m for each of four directions
(sec. 4.3.1). Those of the P-mode send signals along the line of an angle a, those of
the D-mode spread them. Models alternate both (sec. 4.3).

P:  T = g [[a, a], [1 - a, 1 - a]],   g = tanh(5 (x W + 1)),   a = sigmoid(x W / 2D + b)
D:  T = [[t_1, t_2], [0, t_3]],       t = tanh(5 (x W + 1)),   two s, two m

All gates' W begin at zero, the b of a from -2 to 2 over the heads (table 4). In P-mode
the angle splits the Source as it does T, (a s, (1 - a) s): that is ours. The authors'
code takes one minus the first row of T and of s as the second, where the paper's eq. 10
has what stands here. Their vision models show each gate a part of the channels alone.

On a sequence C_t = t C_{t-1} + s k v^T, and o_t = m C_{t-1}^T q + d (q . k) v. That
layer is the authors' code's, without the matrices that t may be there: all but the
values see c = conv(x), and y = norm(o) W_o + scale * c.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.grid import heads
from jaxseq.modules.mixer import Mixer

__all__ = ["CONV_SIZE", "PLSTM", "PLSTM2D", "PLSTM2DDiffusive", "PLSTMState"]

CONV_SIZE = 4  # Taps W of the short convolution.
DIRECTIONS = 4
INIT = nn.initializers.variance_scaling(2 / 5, "fan_in", "normal")  # "Small init".


class PLSTM2D(Mixer):
  """A linear recurrence over the edges of a grid, in four directions.

  Attributes:
    num_heads: Heads H.
    mode: "P", whose signals have a direction, or "D", whose signals spread.
    grid: Rows and columns of the image; None is one row.
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  mode: str = "P"
  grid: tuple[int, int] | None = None
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    heads.check_heads(self)
    if self.mode not in ("P", "D"):
      raise ValueError(
        f"{type(self).__name__} needs mode 'P' or 'D'; got {self.mode!r}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    u = ops.segments.clear_padding(x, segment_ids)
    edges = self._angled(u) if self.mode == "P" else self._spread(u)
    o = ops.plstm_2d(
      *_queries_keys_values(self, u, u),
      *edges,
      _direct(self, u),
      grid=(1, x.shape[1]) if self.grid is None else self.grid,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return _merge(self, o, x), None

  def _angled(self, x):
    """Source, Transition and Mark of the P-mode."""
    gate = lambda name, bias, x=x: _gate(self, x, name, bias, (DIRECTIONS,))
    angle = nn.sigmoid(gate("angle", _angle_init, x / (2 * self.features)))
    split = jnp.stack([angle, 1 - angle], axis=-1)
    twice = lambda x: jnp.stack([x, x], axis=-1)
    source = nn.sigmoid(gate("source", -4.0))[..., None] * split
    decay = jnp.tanh(5 * gate("transition", 1.0))[..., None]
    return source, twice(decay * split), twice(nn.sigmoid(gate("mark", -4.0)))

  def _spread(self, x):
    """Source, Transition and Mark of the D-mode."""
    gate = lambda name, bias, n: _gate(self, x, name, bias, (DIRECTIONS, n))
    t = jnp.tanh(5 * gate("transition", 1.0, 3))
    t = jnp.insert(t, 2, 0, axis=-1).reshape(*t.shape[:-1], 2, 2)
    source, mark = (nn.sigmoid(gate(name, -4.0, 2)) for name in ("source", "mark"))
    return source, t, mark


class PLSTM2DDiffusive(PLSTM2D):
  """The layer in D-mode, by a name of its own, for stacks that alternate both."""

  mode: str = "D"


class PLSTMState(NamedTuple):
  """What the layer carries.

  Attributes:
    memory: C before the last token was written.
    pending: That token's s k, v and t.
    inputs: The last inputs of the convolution.
  """

  memory: Float[Array, "B H K K"]
  pending: Float[Array, "B 2D+H"]
  inputs: Float[Array, "B W-1 D"]


class PLSTM(Mixer):
  """A linear recurrence over a sequence, read before the token is written.

  That is `ops.signed_scalar_decay` with keys, values and decays a token late.

  Attributes:
    num_heads: Heads H.
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    heads.check_heads(self)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    D, kind = self.features, x.dtype
    x = ops.segments.clear_padding(x, segment_ids)
    memory, pending, inputs = (None, None, None) if state is None else state
    c, inputs = self._convolve(x, inputs, segment_ids)
    q, k, v = _queries_keys_values(self, c, x)
    source, mark = (
      nn.sigmoid(_gate(self, c, name, -4.0)[..., None]) for name in ("source", "mark")
    )
    decay = jnp.tanh(5 * _gate(self, c, "transition", 1.0))
    flat = lambda y: y.astype(jnp.float32).reshape(*x.shape[:2], -1)
    written = jnp.concatenate([flat(source * k), flat(v), decay], axis=-1)
    before, pending = ops.token_shift(written, pending, segment_ids)
    late_k, late_v, late_decay = jnp.split(before, [D, 2 * D], axis=-1)
    late_k, late_v = (heads.split(self, y).astype(v.dtype) for y in (late_k, late_v))
    o, memory = ops.signed_scalar_decay(
      q,
      late_k,
      late_v,
      late_decay,
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    own = jnp.sum((q * k).astype(jnp.float32), axis=-1) * q.shape[-1] ** -0.5
    o = mark * o + (_direct(self, x) * own)[..., None] * v
    scale = _param(self, "scale", nn.initializers.ones, (D,), ("embed",))
    y = _merge(self, o, x) + scale * c
    y = ops.segments.clear_padding(y.astype(kind), segment_ids)
    return y, PLSTMState(memory, pending, inputs)

  def _convolve(self, x, inputs, segment_ids):
    lecun, axes = nn.initializers.lecun_normal(), (None, "embed")
    return ops.short_conv(
      x.astype(self.dtype),
      _param(self, "conv", lecun, (CONV_SIZE, self.features), axes),
      _param(self, "conv_bias", nn.initializers.zeros, (self.features,), axes[1:]),
      initial_state=inputs,
      segment_ids=segment_ids,
    )

  @nn.nowrap
  def initial_state(self, batch_size: int) -> PLSTMState:
    zeros = lambda *shape: jnp.zeros((batch_size, *shape))
    D, H = self.features, self.num_heads
    memory = zeros(H, D // H, D // H)
    return PLSTMState(memory, zeros(2 * D + H), zeros(CONV_SIZE - 1, D))


def _queries_keys_values(mixer, x, of_values):
  for name, inputs in (("q", x), ("k", x), ("v", of_values)):
    y = heads.project(mixer, inputs, mixer.features, name, kernel_init=INIT)
    yield heads.split(mixer, y)


def _gate(mixer, x, name, bias, shape=()):
  """A linear map that begins as its bias, [B, T, H, *shape] float32."""
  gate = heads.project(
    mixer,
    x,
    mixer.num_heads * math.prod(shape),
    name,
    kernel_init=nn.initializers.zeros,
    bias_init=bias if callable(bias) else nn.initializers.constant(bias),
  )
  return gate.astype(jnp.float32).reshape(*x.shape[:2], mixer.num_heads, *shape)


def _angle_init(key, shape, dtype):
  """From -2 to 2 over the heads, the same in all directions."""
  return jnp.repeat(
    jnp.linspace(-2, 2, shape[0] // DIRECTIONS, dtype=dtype), DIRECTIONS
  )


def _direct(mixer, x):
  """The Direct gate [B, T, H], which is no function of the input."""
  bias = nn.initializers.constant(-6.0)
  gate = nn.sigmoid(_param(mixer, "direct", bias, (mixer.num_heads,)))
  return jnp.broadcast_to(gate, (*x.shape[:2], mixer.num_heads))


def _merge(mixer, o, x):
  """The norm of all heads and their output projection, in the dtype of x."""
  norm = layers.RMSNorm(mixer.norm_epsilon, use_scale=False, name="norm")
  o = norm(o.astype(jnp.float32)).reshape(x.shape)
  o *= _param(mixer, "norm_scale", nn.initializers.ones, (mixer.features,))
  options = dict(use_bias=False, kernel_init=INIT)
  y = heads.project(mixer, o, mixer.features, "out", ("heads", "embed"), **options)
  return y.astype(x.dtype)


def _param(mixer, name, init, shape, axes=("heads",)):
  init = nn.with_logical_partitioning(init, axes)
  return mixer.param(name, init, shape, mixer.param_dtype)
