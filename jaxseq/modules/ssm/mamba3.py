"""Mamba-3 (Lahoti et al. 2026, arXiv:2603.15569, sec. 3).

z, x, B, C, dt, A, lambda, theta = u W                        no convolution
dt_t = softplus(dt + dt_bias),   g_t = -dt_t softplus(A),   lambda_t = sigmoid(lambda)
phi_t = phi_{t-1} + dt_t pi tanh(theta_t)
B_t = R(phi_t) (norm(B) + bias),   C_t = R(phi_t) (norm(C) + bias)
S_t = exp(g_t) (S_{t-1} + (1 - lambda_t) dt_t B_{t-1} x_{t-1}^T)
    + lambda_t dt_t B_t x_t^T
o_t = S_t^T C_t + D x_t,         y_t = (o_t * silu(z_t)) W_o

The rotations R of pairs of channels, by angles phi that add up, make the state that of
a complex state space whose transition turns by dt_t pi tanh(theta_t); one half of the
channels turns. With `rank` > 1 (MIMO) a head has that many B, C, x, z and o:

    x_r = x * m_r,   z_r = z * n_r,   o = sum_r p_r * o_r * silu(z_r)
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init, time_scales
from jaxseq.modules.mixer import Mixer

__all__ = ["MIMOMamba3", "Mamba3", "Mamba3State"]

SLOWEST = 1e-4  # Least rate of decay, from the authors' code.


class Mamba3State(NamedTuple):
  """What the layer carries: the state of its recurrence, and how far that has turned.

  Angles are in turns, within [-1/2, 1/2].
  """

  trapezoidal: ops.TrapezoidalState
  angle: Float[Array, "B H N/4"]


class Mamba3(Mixer):
  """A selective, complex state space in trapezoidal steps.

  Attributes:
    num_heads: Heads H. If None, so many that a head has 64 channels, but at least 4.
    expand: Width of all heads' channels, as a multiple of `features`.
    state_size: N, real numbers of state for each channel, in multiples of 4.
    num_groups: Groups G of heads that share B and C but for their biases.
    rank: Inputs and outputs R of a head's state.
    norm_epsilon: Of the norms of B and C.
  """

  num_heads: int | None = None
  expand: int = 2
  state_size: int = 128
  num_groups: int = 1
  rank: int = 1
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.width % self.heads or self.heads % self.num_groups:
      raise ValueError(
        f"{type(self).__name__} needs num_heads that divide expand x features = "
        f"{self.width} and are a multiple of num_groups = {self.num_groups}; "
        f"got {self.heads}"
      )
    if self.state_size % 4:
      raise ValueError(
        f"{type(self).__name__} needs state_size in multiples of 4; "
        f"got {self.state_size}"
      )

  @property
  def width(self) -> int:
    return self.expand * self.features

  @property
  def heads(self) -> int:
    return self.num_heads or max(4, self.width // 64)

  @property
  def head_size(self) -> int:
    return self.width // self.heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    batch, T, _ = x.shape
    u = ops.segments.clear_padding(x, segment_ids)
    H, P = self.heads, self.head_size
    state = self.initial_state(batch) if state is None else state

    dt, A, mix = (
      self._project(u, H, n).astype(jnp.float32) for n in ("dt", "A", "mix")
    )
    dt = nn.softplus(dt + self._param("dt_bias", time_scales.step_init, (H,)))
    log_decay = -dt * jnp.maximum(nn.softplus(A), SLOWEST)
    self.show(log_decay=log_decay)
    mix = nn.sigmoid(mix)
    theta = self._project(u, self.state_size // 4, "theta", ("embed", None))
    turns = 0.5 * jnp.tanh(theta.astype(jnp.float32))[:, :, None] * dt[..., None]
    turns = ops.segments.clear_padding(turns, segment_ids)
    angle = _add_up(turns, state.angle, segment_ids)
    k, q = (self._turned(u, name, 2 * math.pi * angle) for name in "BC")

    v = self._project(u, H * P, "x").reshape(batch, T, H, 1, P)
    gate = self._project(u, H * P, "z").reshape(batch, T, H, 1, P)
    if self.rank > 1:
      v, gate = v * self._ranks("x_ranks", 1 / self.rank), gate * self._ranks("z_ranks")
    o, trapezoidal = ops.trapezoidal_decay(
      q,
      k,
      v,
      log_decay,
      mix * dt,
      (1 - mix) * dt,
      initial_state=state.trapezoidal,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    skip = self._param("D", nn.initializers.ones, (H,))[:, None, None].astype(v.dtype)
    o = (o + skip * v) * nn.silu(gate)
    if self.rank > 1:
      o = o * self._ranks("out_ranks", 1 / self.rank)
    o = jnp.sum(o, axis=3).reshape(batch, T, H * P)
    y = self._project(o, self.features, "out", ("heads", "embed")).astype(x.dtype)
    return y, Mamba3State(trapezoidal, angle[:, -1])

  def _turned(self, u, name, angle):
    """B or C: normed, with each head's bias, the first half of the channels turned."""
    shape = (self.num_groups, self.rank, self.state_size)
    y = self._project(u, math.prod(shape), name, ("embed", None))
    y = y.reshape(*u.shape[:2], *shape).astype(jnp.float32)
    norm = layers.RMSNorm(
      self.norm_epsilon,
      axes=(None,),
      param_dtype=self.param_dtype,
      name=f"{name}_norm",
    )
    y = jnp.repeat(norm(y), self.heads // self.num_groups, axis=2)
    shape, axes = (self.heads, *shape[1:]), ("heads", None, None)
    y += self._param(f"{name}_bias", nn.initializers.ones, shape, axes)
    cos, sin = jnp.cos(angle)[..., None, :], jnp.sin(angle)[..., None, :]
    a, b, rest = jnp.split(y, [angle.shape[-1], 2 * angle.shape[-1]], axis=-1)
    y = jnp.concatenate([a * cos - b * sin, a * sin + b * cos, rest], axis=-1)
    return y.astype(self.dtype)

  def _ranks(self, name, value=1.0):
    """What makes R inputs or outputs of one, channel by channel."""
    shape, axes = (self.heads, self.rank, self.head_size), ("heads", None, None)
    init = nn.initializers.constant(value)
    return self._param(name, init, shape, axes).astype(self.dtype)

  def _project(self, x, width, name, axes=("embed", "heads")):
    return layers.projection(
      width,
      axes,
      kernel_init=linear_init.kernel_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Mamba3State:
    zeros = lambda *shape: jnp.zeros((batch_size, self.heads, *shape))
    N, P, R = self.state_size, self.head_size, self.rank
    trapezoidal = ops.TrapezoidalState(zeros(N, P), zeros(R, N), zeros(R, P))
    return Mamba3State(trapezoidal, zeros(N // 4))


class MIMOMamba3(Mamba3):
  """Mamba-3 with several inputs and outputs, by default the paper's four."""

  rank: int = 4


def _add_up(turns, angle, segment_ids):
  """Sums of turns since the document's start, after `angle`; within [-1/2, 1/2].

  Unbounded sums would lose the digits that matter. So turns are added up as integers,
  in which a whole turn overflows to none; the gradient is that of the plain sums.
  """
  whole = 2.0**32
  fixed = lambda x: jnp.round((x - jnp.round(x)) * whole).astype(jnp.int32)
  exact = _sums(fixed(turns), fixed(angle), segment_ids).astype(jnp.float32) / whole
  sums = _sums(turns, angle, segment_ids)
  return exact + sums - jax.lax.stop_gradient(sums)


def _sums(x, first, segment_ids):
  """Sums over the tokens of a document up to each, in its row's first after `first`."""
  sums = jnp.cumsum(x, axis=1)
  if segment_ids is None:
    return sums + first[:, None]
  _, starts, index = ops.segments.parse(segment_ids)
  begin = jax.lax.cummax(jnp.where(starts, jnp.arange(x.shape[1]), 0), axis=1)
  before = jnp.take_along_axis(sums - x, begin[..., None, None], axis=1)
  return sums - jnp.where(index[..., None, None] == 0, -first[:, None], before)
