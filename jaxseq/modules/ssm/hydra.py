"""Hydra (Hwang et al. 2024, arXiv:2407.09941, sec. 3): Mamba-2 in both directions.

z, dt, dt' = x W;   u, B, C, B', C' = silu(conv(x W) + b)      7 taps, looking both ways
dt_t = softplus(dt + dt_bias),   f_t = -dt_t exp(A_log)         likewise dt'_t, g_t
o = QS(u) with keys dt_t B_t, queries C_t, and as diagonal u_t W_D + D
y_t = norm(o_t) * silu(z_t) W_o

QS is the quasiseparable mixer `ops.quasiseparable`. Both directions share the values,
A_log, dt_bias and D; time steps, B and C are projected for each. Details are those of
the authors' code: the norm stands before the gate, and A begins at -1.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.layers import linear_init, time_scales
from jaxseq.modules.mixer import Mixer

__all__ = ["CONV_SIZE", "Hydra"]

CONV_SIZE = 7  # Taps of the convolutions, which look both ways.


class Hydra(Mixer):
  """A state space read from both ends, whose matrix is quasiseparable.

  Attributes:
    num_heads: Heads H. If None, so many that a head has 64 channels, but at least 4.
    expand: Width of all heads' channels, as a multiple of `features`.
    state_size: N, numbers of state for each channel and direction.
    num_groups: Groups G of heads that share B and C.
    norm_epsilon: Of the norm.
  """

  num_heads: int | None = None
  expand: int = 2
  state_size: int = 64
  num_groups: int = 1
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.width % self.heads or self.heads % self.num_groups:
      raise ValueError(
        f"Hydra needs num_heads that divide expand x features = {self.width} and are "
        f"a multiple of num_groups = {self.num_groups}; got {self.heads}"
      )

  @property
  def width(self) -> int:
    return self.expand * self.features

  @property
  def heads(self) -> int:
    return self.num_heads or max(4, self.width // 64)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    batch, T, _ = x.shape
    H, G, N = self.heads, self.num_groups, self.state_size
    inputs = ops.segments.clear_padding(x, segment_ids)

    def mixed(name, axis, width):
      """Projected and mixed with the tokens around."""
      u = self._project(inputs, width, name, ("embed", axis))
      weight = self._param(
        f"{name}_conv", linear_init.kernel_init, (CONV_SIZE, width), (None, axis)
      )
      u = layers.depthwise_conv(u, weight, segment_ids=segment_ids)
      u += self._param(
        f"{name}_conv_bias", linear_init.bias_init(CONV_SIZE), (width,), (axis,)
      )
      return nn.silu(u).astype(self.dtype)

    u = mixed("x", "heads", self.width)
    BC = mixed("BC", None, 4 * G * N).reshape(batch, T, 2, 2, G, N)
    k, q = BC[:, :, :, 0], BC[:, :, :, 1]
    dt = self._project(inputs, 2 * H, "dt").astype(jnp.float32)
    dt = dt.reshape(batch, T, 2, H) + self._param("dt_bias", time_scales.step_init)
    dt = nn.softplus(dt)
    log_decay = -dt * jnp.exp(self._param("A_log", nn.initializers.zeros))
    self.show(log_decay=log_decay[:, :, 0], log_decay_backward=log_decay[:, :, 1])
    k = dt[..., None] * jnp.repeat(k, H // G, axis=3)
    diagonal = self._project(u, H, "D_input", ("heads", None)).astype(jnp.float32)
    o = ops.quasiseparable(
      q,
      k.astype(self.dtype),
      u.reshape(batch, T, H, -1),
      log_decay,
      diagonal + self._param("D", nn.initializers.ones),
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=("heads",), param_dtype=self.param_dtype, name="norm"
    )
    # The gate is zero at padding, where the convolutions' biases leave something.
    gate = nn.silu(self._project(inputs, self.width, "z"))
    o = norm(o.reshape(batch, T, self.width)) * gate
    y = self._project(o, self.features, "out", ("heads", "embed"))
    return y.astype(x.dtype), None

  def _project(self, x, width, name, axes=("embed", "heads")):
    return layers.projection(
      width,
      axes,
      kernel_init=linear_init.kernel_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  def _param(self, name, init, shape=None, axes=("heads",)):
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, shape or (self.heads,), self.param_dtype)
