"""Mamba (Gu & Dao 2023, arXiv:2312.00752, sec. 3 and algorithm 2).

x, z = u W;   x = silu(conv(x) + b)
dt_t = softplus(x_t W_1 W_2 + dt_bias),   B_t, C_t = x_t W_B, x_t W_C
h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t,   o_t = C_t h_t + D x_t,   A = -exp(A_log)
y_t = (o_t * silu(z_t)) W_o

`SelectiveSSM` is the part from x to o, `gated` the one around it; others use both.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.ssm import mamba_init

__all__ = [
  "CONV_SIZE",
  "Mamba",
  "SelectiveSSM",
  "SelectiveState",
  "gated",
  "several",
  "ssm_options",
]

CONV_SIZE = 4  # Taps W of the short convolution.


class SelectiveState(NamedTuple):
  """What the layer carries: the memory, and the last inputs of the convolution."""

  memory: Float[Array, "B D N"]
  x: Float[Array, "B W-1 D"]

  @classmethod
  def zeros(
    cls, batch_size: int, width: int, state_size: int, conv_size: int = CONV_SIZE
  ) -> "SelectiveState":
    memory = jnp.zeros((batch_size, width, state_size))
    return cls(memory, jnp.zeros((batch_size, conv_size - 1, width)))


class SelectiveSSM(nn.Module):
  """The short convolution and the state space whose parameters depend on its outputs.

  Attributes:
    width: Channels D.
    state_size: N, numbers of state for each channel.
    dt_rank: Rank of the projection to the step sizes.
    conv_size: Taps W of the short convolution. None if x comes from another one.
    start: Initialisers.
    implementation: See `ops.selective_scan`.
    dtype: Of the matrix products.
    param_dtype: Of the stored parameters.
  """

  width: int
  state_size: int
  dt_rank: int
  conv_size: int | None = CONV_SIZE
  start: mamba_init.Init = mamba_init.MAMBA["default"]
  implementation: str = "auto"
  dtype: DTypeLike = jnp.bfloat16
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B T D"],
    state: SelectiveState | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    *,
    dt_scale: Float[Array, "B T"] | None = None,
    dt_shift: Float[Array, "B T D"] | None = None,
  ) -> tuple[Float[Array, "B T D"], SelectiveState]:
    """From the projected inputs to the outputs before the gate.

    Args:
      x: Inputs, zero at padding.
      state: State before the first token. Zeros if None.
      segment_ids: Packed documents; see `ops.segments`.
      dt_scale: Multiplies x W_1 W_2, the steps before bias and softplus.
      dt_shift: Added to them.
    """
    start = self.start
    memory, inputs = (None, None) if state is None else state
    if self.conv_size is not None:
      x, inputs = ops.short_conv(
        x,
        self._param("conv", start.conv, (self.conv_size, self.width), (None, "heads")),
        self._param("conv_bias", start.conv_bias, (self.width,)),
        activation="silu",
        initial_state=inputs,
        segment_ids=segment_ids,
      )
    low = _project(self, x, self.dt_rank, "dt_down", ("heads", None))
    dt = _project(self, low, self.width, "dt_up", (None, "heads"), start.dt)
    dt = dt.astype(jnp.float32)
    if dt_scale is not None:
      dt *= dt_scale[..., None]
    if dt_shift is not None:
      dt += dt_shift
    BC = _project(self, x, 2 * self.state_size, "BC", ("heads", None), start.BC)
    B, C = jnp.split(BC, 2, axis=-1)
    dt += self._param("dt_bias", start.dt_bias, (self.width,))
    y, memory = self._scan(x, dt, B, C, memory, segment_ids)
    return y, SelectiveState(memory, inputs)

  def _scan(self, x, dt, B, C, memory, segment_ids):
    """The recurrence, from the steps before the softplus."""
    shape = (self.width, self.state_size)
    A = -jnp.exp(self._param("A_log", self.start.A_log, shape, ("heads", None)))
    dt = nn.softplus(dt)
    if self.is_mutable_collection("gates") and not self.is_initializing():
      self.sow("gates", "log_decay", dt[..., None] * A)  # See `jaxseq.inspection`.
    return ops.selective_scan(
      x,
      dt,
      A,
      B,
      C,
      self._skip(),
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _skip(self):
    return self._param("D", nn.initializers.ones, (self.width,))

  def _param(self, name, init, shape, axes=("heads",)):
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, shape, self.param_dtype)


class Mamba(Mixer):
  """A gated state space that chooses by token what it keeps.

  Attributes:
    expand: Channels of the state space, as a multiple of `features`.
    state_size: N, numbers of state for each channel.
    dt_rank: Rank of the projection to the step sizes. If None, features / 16, rounded
      up.
    conv_size: Taps W of the short convolution. With 1 no token sees those before it.
    initialization: "default"; "mimetic", a start as causal linear attention; or
      "mimetic_conv", whose convolution starts as the identity too. See `mamba_init`.
  """

  expand: int = 2
  state_size: int = 16
  dt_rank: int | None = None
  conv_size: int = CONV_SIZE
  initialization: str = "default"

  def __post_init__(self):
    super().__post_init__()
    mamba_init.check(self, mamba_init.MAMBA)
    if self.conv_size < 1:
      raise ValueError(f"Mamba needs conv_size >= 1; got {self.conv_size}")

  @property
  def width(self) -> int:
    return self.expand * self.features

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None, dt_scale=None, dt_shift=None):
    """As every mixer; `dt_scale` and `dt_shift` are those of `SelectiveSSM`."""
    start = mamba_init.MAMBA[self.initialization]
    options = ssm_options(self) | dict(conv_size=self.conv_size, start=start)
    ssm = SelectiveSSM(**options, name="ssm")
    steps = dict(dt_scale=dt_scale, dt_shift=dt_shift)
    run = lambda u: ssm(u, state, segment_ids=segment_ids, **steps)
    return gated(self, x, segment_ids, run)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> SelectiveState:
    return SelectiveState.zeros(batch_size, self.width, self.state_size, self.conv_size)


def ssm_options(mixer) -> dict:
  """Attributes of the `SelectiveSSM` inside a mixer with those of Mamba."""
  return dict(
    width=mixer.width,
    state_size=mixer.state_size,
    dt_rank=mixer.dt_rank or math.ceil(mixer.features / 16),
    implementation=mixer.implementation,
    dtype=mixer.dtype,
    param_dtype=mixer.param_dtype,
  )


def several(mixer, **options) -> Callable:
  """State spaces side by side; inputs, states and ids have them as first axis."""
  cls = nn.vmap(
    SelectiveSSM,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    metadata_params={nn.PARTITION_NAME: None},
  )
  return cls(**ssm_options(mixer), **options)


def gated(mixer, x, segment_ids, ssm):
  """The layer around a state space, inside the `nn.compact` method of a mixer.

  Args:
    mixer: It has the attributes of a `Mixer` and `width`.
    x: Inputs of the layer.
    segment_ids: Packed documents, or None.
    ssm: From the projected inputs [B, T, width] to the outputs before the gate, and
      what else the layer returns.
  """
  u = ops.segments.clear_padding(x, segment_ids)
  o, rest = ssm(_project(mixer, u, mixer.width, "x", ("embed", "heads")))
  o = o * nn.silu(_project(mixer, u, mixer.width, "z", ("embed", "heads")))
  y = _project(mixer, o, mixer.features, "out", ("heads", "embed"))
  return y.astype(x.dtype), rest


def _project(module, x, width, name, axes, kernel_init=linear_init.kernel_init):
  """A linear map in the dtypes of the module."""
  return layers.projection(
    width,
    axes,
    kernel_init=kernel_init,
    dtype=module.dtype,
    param_dtype=module.param_dtype,
    name=name,
  )(x)
