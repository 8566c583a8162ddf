"""Mamba in several orders at once, as ViM2 mixes tokens.

x, z = u W;   x = silu(conv(x) + b)                     depthwise, 3 x 3 on the grid
y = (sum_s write_s(SSM_s(read_s(x))) * silu(z)) W_o

An image is read along its rows and along its columns, in both directions, each by a
state space of its own (the cross-scan of VMamba, Liu et al. 2024, arXiv:2401.10166,
sec. 4.2); a sequence is read in both directions. That is the selective token mixer of
MambaMixer (Behrouz et al. 2024, arXiv:2403.19888, sec. 3.1) for images (sec. 4.1).
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers
from jaxseq.layers import linear_init
from jaxseq.modules.grid import scan_orders
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.ssm.mamba import gated, several

__all__ = ["CrossScanMamba"]


class CrossScanMamba(Mixer):
  """Mamba with a state space for each order in which the tokens can be read.

  Attributes:
    grid: Rows and columns of the image; each row of the batch is one. None is a
      sequence.
    expand: Channels of each state space, as a multiple of `features`.
    state_size: N, numbers of state for each channel.
    dt_rank: Rank of the projections to the step sizes. If None, features / 16, rounded
      up.
  """

  grid: tuple[int, int] | None = None
  expand: int = 2
  state_size: int = 16
  dt_rank: int | None = None

  @property
  def width(self) -> int:
    return self.expand * self.features

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    convolve = layers.DepthwiseConv(
      3,
      self.grid,
      use_bias=True,
      kernel_init=linear_init.kernel_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="conv",
    )
    scans = several(self, conv_size=None, name="ssm")
    grid = self.grid or x.shape[1:2]
    orders = [
      scan_orders.permutation(grid, axis, reverse)
      for axis in reversed(range(len(grid)))
      for reverse in (False, True)
    ]
    read = lambda a: jnp.stack([scan_orders.read(a, order) for order in orders])

    def mix(u):
      u = nn.silu(convolve(u, segment_ids))
      ids = None if segment_ids is None else read(segment_ids)
      o, _ = scans(read(u), None, ids)
      return sum(scan_orders.write(*one) for one in zip(o, orders)), None

    return gated(self, x, segment_ids, mix)
