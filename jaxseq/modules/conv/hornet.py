"""Recursive gated convolutions (HorNet, Rao et al. 2022, arXiv:2207.14284).

    [p_0, q_0, ... q_{n-1}] = x W_in + b_in       widths C_0; C_0, C_1, ... C_{n-1} = D
    p_{k+1} = g_k(p_k) * conv_k(q_k) / alpha      g_0 = 1, else linear    (eq. 3.3, 3.4)
    y = p_n W_out + b_out,    C_k = D / 2^{n-1-k}

so that an output has products of n + 1 inputs in it, of neighbours more and more far
apart. The paper is of images, see `grid.hornet`; here the convolutions are causal. All
of them are of the inputs, none of the products, so the state is the last q.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["INIT", "CausalHorNet", "check", "gate", "widths"]

INIT = nn.initializers.normal(0.02)


def check(mixer: Mixer):
  """Raises ValueError where the attributes do not fit."""
  name = type(mixer).__name__
  if mixer.order < 1 or mixer.features % 2 ** (mixer.order - 1):
    raise ValueError(
      f"{name} needs an order >= 1 whose 2^(order - 1) divides features = "
      f"{mixer.features}; got {mixer.order}"
    )
  if mixer.kernel_size < 1:
    raise ValueError(f"{name} needs kernel_size >= 1; got {mixer.kernel_size}")


def widths(mixer: Mixer) -> list[int]:
  """C_0 to C_{n-1}."""
  return [mixer.features >> k for k in reversed(range(mixer.order))]


def gate(mixer: Mixer, x, convolve, segment_ids):
  """The recursion; called within the mixer's `__call__`.

  Args:
    mixer: Whose parameters they become.
    x: Inputs.
    convolve: Of all q side by side, and what it returns beside them.
    segment_ids: Packed documents, or None.
  """

  def project(x, width, name, axes):
    return layers.projection(
      width,
      axes,
      use_bias=True,
      kernel_init=INIT,
      dtype=mixer.dtype,
      param_dtype=mixer.param_dtype,
      name=name,
    )(x)

  kind, sizes = x.dtype, widths(mixer)
  x = ops.segments.clear_padding(x, segment_ids).astype(mixer.dtype)
  p = project(x, sizes[0], "p", ("embed", "heads"))
  mixed, state = convolve(project(x, sum(sizes), "q", ("embed", "heads")))
  start = 0
  for k, size in enumerate(sizes):
    p = p if k == 0 else project(p, size, f"g_{k}", ("heads", None))
    share = mixed[..., start : start + size].astype(jnp.float32) * mixer.scale
    p, start = (p * share).astype(mixer.dtype), start + size
  y = project(p, mixer.features, "out", ("heads", "embed"))
  return ops.segments.clear_padding(y.astype(kind), segment_ids), state


class CausalHorNet(Mixer):
  """Products of neighbouring tokens, of growing order and width.

  Attributes:
    order: n, the number of gates.
    kernel_size: Taps of the convolutions.
    scale: 1 / alpha.
  """

  order: int = 4
  kernel_size: int = 7
  scale: float = 1 / 3

  def __post_init__(self):
    super().__post_init__()
    check(self)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    def convolve(q):
      width = q.shape[-1]
      return ops.short_conv(
        q,
        self._param("conv", INIT, (self.kernel_size, width), (None, "heads")),
        self._param("conv_bias", nn.initializers.zeros, (width,), ("heads",)),
        initial_state=state,
        segment_ids=segment_ids,
        implementation=self.implementation,
      )

    return gate(self, x, convolve, segment_ids)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B W-1 C"]:
    return jnp.zeros((batch_size, self.kernel_size - 1, sum(widths(self))))
