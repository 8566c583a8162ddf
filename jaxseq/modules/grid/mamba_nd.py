"""Mamba-ND (Li et al. 2024, arXiv:2402.05892, sec. 4): Mamba over images and volumes.

y = write(Mamba(read(x)))         in one order of the tokens, another in each layer

A layer is Mamba as it is, over the grid unravelled along one axis in one direction; the
layers alternate between the axes and the directions: H+, H-, W+, W- on an image. That
did better than to scan in several orders inside one layer (sec. 5.4).
"""

import flax.linen as nn

from jaxseq.modules.grid import scan_orders
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.ssm.mamba import Mamba

__all__ = ["MambaND", "alternating"]


class MambaND(Mixer):
  """Mamba in one of the orders in which a grid can be read.

  Attributes:
    grid: Sizes of the grid's axes; each row of the batch is one grid, written with the
      last axis fastest. None is a sequence.
    fastest: The axis along which the scan goes; it changes places with the last.
    reverse: Whether the scan begins at the end.
    expand: Channels of the state space, as a multiple of `features`.
    state_size: N, numbers of state for each channel.
    dt_rank: Rank of the projection to the step sizes. If None, features / 16, rounded
      up.
  """

  grid: tuple[int, ...] | None = None
  fastest: int = -1
  reverse: bool = False
  expand: int = 2
  state_size: int = 16
  dt_rank: int | None = None

  def __post_init__(self):
    super().__post_init__()
    num_axes = 1 if self.grid is None else len(self.grid)
    if not -num_axes <= self.fastest < num_axes:
      raise ValueError(
        f"MambaND needs fastest, an axis of a grid of {num_axes}; got {self.fastest}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    grid = self.grid or (x.shape[1],)
    order = scan_orders.permutation(grid, self.fastest, self.reverse)
    if len(order) != x.shape[1]:
      raise ValueError(
        f"a grid of {' x '.join(map(str, grid))} needs T = {len(order)}; "
        f"got {x.shape[1]}"
      )
    mamba = Mamba(
      features=self.features,
      expand=self.expand,
      state_size=self.state_size,
      dt_rank=self.dt_rank,
      implementation=self.implementation,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="mamba",
    )
    ids = None if segment_ids is None else scan_orders.read(segment_ids, order)
    y, _ = mamba(scan_orders.read(x, order), segment_ids=ids)
    return scan_orders.write(y, order), None


def alternating(grid: tuple[int, ...]) -> dict[str, dict]:
  """Options of the layers of a stack, by place, for `BackboneConfig.mixer_options`.

  The pattern is ("mamba_nd",) * 2 * len(grid): along the last axis forwards and
  backwards, then along the one before it, and so on.
  """
  orders = [
    dict(grid=grid, fastest=axis, reverse=reverse)
    for axis in reversed(range(len(grid)))
    for reverse in (False, True)
  ]
  return {str(place): order for place, order in enumerate(orders)}
