"""Recursive gated convolutions of an image (HorNet, Rao et al. 2022, arXiv:2207.14284).

The recursion is that of `conv.hornet`. Its convolutions are 7 x 7 and look all around;
or, with the global filter of GFNet (Rao et al. 2021, arXiv:2107.00645), half of the
channels of all q are multiplied by weights in the frequencies of the grid:

    u = norm(q),    q' = norm(interleave(conv_3x3(u_1), F^-1(W * F(u_2))))

Norms and the order of channels are those of the authors' code (sec. 3.2).
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers
from jaxseq.modules.conv import hornet
from jaxseq.modules.mixer import Mixer

__all__ = ["HorNet"]

FILTERS = ("local", "global")


class HorNet(Mixer):
  """Products of neighbouring tokens, of growing order and width.

  Attributes:
    order: n, the number of gates.
    kernel_size: Taps of the convolutions along each axis, an odd number.
    filter: "local" convolutions, or the "global" filter, which needs a grid and takes
      no packed documents.
    scale: 1 / alpha.
    grid: Rows and columns of the image; None is a sequence, whose convolutions have one
      axis.
  """

  order: int = 4
  kernel_size: int = 7
  filter: str = "local"
  scale: float = 1 / 3
  grid: tuple[int, int] | None = None

  def __post_init__(self):
    super().__post_init__()
    hornet.check(self)
    if self.filter not in FILTERS:
      raise ValueError(f"HorNet needs filter in {FILTERS}; got {self.filter!r}")
    if self.kernel_size % 2 == 0:
      raise ValueError(f"HorNet needs an odd kernel_size; got {self.kernel_size}")
    if self.filter == "global" and (self.grid is None or hornet.widths(self)[0] % 2):
      raise ValueError(
        "HorNet needs a grid and features / 2^(order - 1) even for a global filter; "
        f"got grid {self.grid} and {hornet.widths(self)[0]}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    if self.filter == "global" and segment_ids is not None:
      raise ValueError(
        "HorNet's global filter sees the whole grid; it needs segment_ids=None"
      )
    convolve = self._local if self.filter == "local" else self._global
    mix = lambda q: (convolve(q, segment_ids), None)
    return hornet.gate(self, x, mix, segment_ids)

  def _conv(self, size, use_bias, name):
    return layers.DepthwiseConv(
      size,
      self.grid,
      use_bias=use_bias,
      kernel_init=hornet.INIT,
      dtype=jnp.float32,
      param_dtype=self.param_dtype,
      implementation=self.implementation,
      name=name,
    )

  def _local(self, q, segment_ids):
    return self._conv(self.kernel_size, True, "conv")(q, segment_ids)

  def _global(self, q, segment_ids):
    del segment_ids
    near, far = jnp.split(self._norm(q, "pre_norm"), 2, axis=-1)
    near = self._conv(3, False, "conv")(near)
    rows, columns = self.grid
    shape = rows, columns // 2 + 1, far.shape[-1], 2
    init = nn.with_logical_partitioning(hornet.INIT, (None, None, "heads", None))
    weight = self.param("filter_weight", init, shape, self.param_dtype)
    image = far.reshape(len(far), rows, columns, -1)
    spectrum = jnp.fft.rfft2(image, axes=(1, 2))
    spectrum *= weight[..., 0] + 1j * weight[..., 1]
    far = jnp.fft.irfft2(spectrum, self.grid, axes=(1, 2)).reshape(far.shape)
    return self._norm(jnp.stack([near, far], axis=-1).reshape(q.shape), "post_norm")

  def _norm(self, x, name):
    return nn.LayerNorm(
      1e-6,
      dtype=jnp.float32,
      param_dtype=self.param_dtype,
      scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("heads",)),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("heads",)),
      name=name,
    )(x)
