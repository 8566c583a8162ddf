"""Mamba-2 (Dao & Gu 2024, arXiv:2405.21060, sec. 7 and fig. 6).

z, dt = x W;   u, B, C = silu(conv(x W) + b)
dt_t = softplus(dt + dt_bias),   g_t = -dt_t exp(A_log)                one a head
S_t = exp(g_t) S_{t-1} + B_t (dt_t u_t)^T,   o_t = S_t^T C_t + D u_t
y_t = norm(o_t * silu(z_t)) W_o

As linear attention: C are the queries, B the keys, shared by the heads of a group, and
dt u the values. With `negative_eigenvalues` the decay a_t = exp(g_t) in (0, 1] becomes
2 a_t - 1 in (-1, 1], so that a state can change its sign: such layers learn parity
(Grazzi et al. 2024, arXiv:2411.12537, sec. 4).
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.ssm import mamba_init

__all__ = ["CONV_SIZE", "Mamba2", "Mamba2State"]

CONV_SIZE = 4  # Taps W of the short convolutions.


class Mamba2State(NamedTuple):
  """What the layer carries: the memory, and the last inputs of the convolutions."""

  memory: Float[Array, "B H N P"]
  x: Float[Array, "B W-1 HP"]
  BC: Float[Array, "B W-1 2GN"]


class Mamba2(Mixer):
  """A state space whose time scale, input and output matrices depend on the input.

  Attributes:
    num_heads: Heads H. If None, so many that a head has 64 channels, but at least 4.
    expand: Width of all heads' channels, as a multiple of `features`.
    state_size: N, numbers of state for each channel.
    num_groups: Groups G of heads that share B and C, each with a norm of its own.
    negative_eigenvalues: Whether decays range over (-1, 1] instead of (0, 1].
    norm_epsilon: Of the gated norm.
    initialization: "default"; "mimetic", a start as causal linear attention; or
      "mimetic_conv", whose convolutions start as the identity too. See `mamba_init`.
  """

  num_heads: int | None = None
  expand: int = 2
  state_size: int = 128
  num_groups: int = 1
  negative_eigenvalues: bool = False
  norm_epsilon: float = 1e-5
  initialization: str = "default"

  def __post_init__(self):
    super().__post_init__()
    mamba_init.check(self, mamba_init.MAMBA2)
    if self.width % self.heads or self.heads % self.num_groups:
      raise ValueError(
        f"{type(self).__name__} needs num_heads that divide expand x features = "
        f"{self.width} and are a multiple of num_groups = {self.num_groups}; "
        f"got {self.heads}"
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
    H, P, G, N = self.heads, self.head_size, self.num_groups, self.state_size
    before = Mamba2State(None, None, None) if state is None else state
    init = mamba_init.MAMBA2[self.initialization]

    def mixed(name, axis, width, inputs, kernel_init=linear_init.kernel_init):
      """Projected and mixed with the tokens just before."""
      return ops.short_conv(
        self._project(u, width, name, ("embed", axis), kernel_init),
        self._param(f"{name}_conv", init.conv, (CONV_SIZE, width), (None, axis)),
        self._param(f"{name}_conv_bias", init.conv_bias, (width,), (axis,)),
        activation="silu",
        initial_state=inputs,
        segment_ids=segment_ids,
      )

    v, x_after = mixed("x", "heads", H * P, before.x)
    BC, BC_after = mixed("BC", None, 2 * G * N, before.BC, init.BC)
    v = v.reshape(batch, T, H, P)
    k, q = jnp.split(BC.reshape(batch, T, 2 * G, N), 2, axis=2)
    dt_bias = self._param("dt_bias", init.dt_bias, (H,))
    dt = self._project(u, H, "dt", kernel_init=init.dt).astype(jnp.float32)
    dt = nn.softplus(dt + dt_bias)
    log_decay = -dt * jnp.exp(self._param("A_log", init.A_log, (H,)))
    self.show(log_decay=log_decay)
    values = (dt[..., None] * v).astype(v.dtype)
    o, memory = self._recur(u, q, k, values, log_decay, before.memory, segment_ids)
    o += (self._param("D", nn.initializers.ones, (H,))[:, None] * v).astype(o.dtype)

    gate = self._project(u, H * P, "z")
    o = self._norm(o.reshape(batch, T, H * P) * nn.silu(gate))
    y = self._project(o, self.features, "out", ("heads", "embed")).astype(x.dtype)
    return y, Mamba2State(memory, x_after, BC_after)

  def _recur(self, u, q, k, v, log_decay, memory, segment_ids):
    """Outputs and the memory after them, for the values dt u."""
    del u  # The gates of the layers that derive from this one depend on it.
    op, decay = ops.scalar_decay, log_decay
    if self.negative_eigenvalues:
      op, decay = ops.signed_scalar_decay, 2 * jnp.exp(log_decay) - 1
    return op(
      q,
      k,
      v,
      decay,
      initial_state=memory,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )

  def _norm(self, x):
    """By groups, with a scale for each channel."""
    groups = x.reshape(*x.shape[:2], self.num_groups, -1)
    norm = layers.RMSNorm(self.norm_epsilon, use_scale=False, name="norm")
    y = norm(groups.astype(jnp.float32)).reshape(x.shape)
    scale = self._param("norm_scale", nn.initializers.ones, (self.width,))
    return (y * scale).astype(x.dtype)

  def _project(
    self, x, width, name, axes=("embed", "heads"), kernel_init=linear_init.kernel_init
  ):
    return layers.projection(
      width,
      axes,
      kernel_init=kernel_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Mamba2State:
    inputs = lambda width: jnp.zeros((batch_size, CONV_SIZE - 1, width))
    shared = 2 * self.num_groups * self.state_size
    memory = jnp.zeros((batch_size, self.heads, self.state_size, self.head_size))
    return Mamba2State(memory, inputs(self.width), inputs(shared))
