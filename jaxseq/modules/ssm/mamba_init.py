"""How Mamba and Mamba-2 begin: as their authors have it, or mimicking attention.

Mimetic initialisation (Trockman et al. 2024, arXiv:2410.11135) begins a layer as causal
linear attention, of which recall is easily learned: nothing fades (A near 0), all steps
are one (W_dt = 0, dt_bias = softplus^-1(1)), and tokens find those like themselves
(W_C^T W_B near a multiple of the identity; W_C and W_B near each other, not equal).
Optionally the short convolution begins as the identity. How near A is to 0, that W_C is
the mean of W_B and of random weights, and that both keep their usual scale, is ours.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.layers import linear_init, time_scales

__all__ = ["MAMBA", "MAMBA2", "Init", "check"]

NEARLY_ZERO = -8.0  # A_log: half of a state is left after 2066 tokens.
CONV_BIAS = linear_init.bias_init(4)  # Of the convolutions, which have four taps.


@dataclasses.dataclass(frozen=True)
class Init:
  """Initialisers by what they begin.

  Attributes:
    A_log: Logarithms of the rates at which the states fade.
    dt: Last projection to the steps.
    dt_bias: Bias of the steps, before the softplus.
    BC: Projection to B and C, one after the other.
    conv: Taps [W, D] of the short convolution.
    conv_bias: Its bias.
  """

  A_log: nn.initializers.Initializer
  dt: nn.initializers.Initializer
  dt_bias: nn.initializers.Initializer
  BC: nn.initializers.Initializer
  conv: nn.initializers.Initializer
  conv_bias: nn.initializers.Initializer


def check(mixer, inits):
  """Raises ValueError if a mixer's `initialization` has no entry."""
  if mixer.initialization not in inits:
    raise ValueError(
      f"{type(mixer).__name__} needs initialization in {tuple(inits)}; "
      f"got {mixer.initialization!r}"
    )


def _rates(key, shape, dtype=jnp.float32):
  """1 to N in each channel (S4D-real, Gu et al. 2022, arXiv:2206.11893)."""
  del key
  return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=dtype)), shape)


def _steps(key, shape, dtype=jnp.float32):
  """Uniform within R^-1/2, which keeps the variance of R inputs."""
  bound = shape[0] ** -0.5
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def _correlated(key, shape, dtype=jnp.float32):
  """W_B, and W_C half way from that to other weights."""
  B, C = jnp.split(linear_init.kernel_init(key, shape, dtype), 2, axis=1)
  return jnp.concatenate([B, (B + C) / 2], axis=1)


def _identity(key, shape, dtype=jnp.float32):
  """The last tap is the current token's."""
  del key
  return jnp.zeros(shape, dtype).at[-1].set(1)


def _with_mimetic(default: Init) -> dict[str, Init]:
  constant, zeros = nn.initializers.constant, nn.initializers.zeros
  mimetic = dataclasses.replace(
    default,
    A_log=constant(NEARLY_ZERO),
    dt=zeros,
    dt_bias=constant(math.log(math.expm1(1.0))),
    BC=_correlated,
  )
  with_conv = dataclasses.replace(mimetic, conv=_identity, conv_bias=zeros)
  return {"default": default, "mimetic": mimetic, "mimetic_conv": with_conv}


MAMBA = _with_mimetic(
  Init(
    _rates,
    _steps,
    time_scales.step_init,
    linear_init.kernel_init,
    linear_init.kernel_init,
    CONV_BIAS,
  )
)
MAMBA2 = _with_mimetic(
  Init(
    time_scales.rate_init,
    linear_init.kernel_init,
    time_scales.step_init,
    linear_init.kernel_init,
    linear_init.kernel_init,
    CONV_BIAS,
  )
)
