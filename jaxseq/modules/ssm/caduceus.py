"""Caduceus (Schiff et al. 2024, arXiv:2403.03234, sec. 3): Mamba for DNA.

BiMamba reads the sequence in both directions with two state spaces between one input
and one output projection (sec. 3.1):

y = ((SSM(u W_x) + flip(SSM'(flip(u W_x)))) * silu(u W_z)) W_o

MambaDNA (sec. 3.2) has half of the channels for each strand of the double helix. With
RC(x), x flipped along time and along channels,

y = [f(x_1), RC(f(RC(x_2)))]            x = [x_1, x_2],  f a BiMamba of half the width

so that y(RC(x)) = RC(y(x)): the reverse complement is understood as the same DNA.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.modules.mixer import Mixer
from jaxseq.modules.ssm.mamba import gated, several

__all__ = ["BiMamba", "MambaDNA"]


class BiMamba(Mixer):
  """Mamba in both directions, which share all but their state spaces.

  Attributes:
    expand: Channels of each state space, as a multiple of `features`.
    state_size: N, numbers of state for each channel.
    dt_rank: Rank of the projections to the step sizes. If None, features / 16, rounded
      up.
  """

  expand: int = 2
  state_size: int = 16
  dt_rank: int | None = None

  @property
  def width(self) -> int:
    return self.expand * self.features

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    ssm = several(self, name="ssm")
    directions = lambda a: jnp.stack([a, a[:, ::-1]])
    ids = None if segment_ids is None else directions(segment_ids)

    def both(u):
      (o, p), _ = ssm(directions(u), None, ids)
      return o + p[:, ::-1], None

    return gated(self, x, segment_ids, both)


class MambaDNA(Mixer):
  """A BiMamba for both strands, equivariant to the reverse complement.

  Attributes:
    expand: Channels of each state space, as a multiple of half the features.
    state_size: N, numbers of state for each channel.
    dt_rank: As in `BiMamba`, of half the features.
  """

  expand: int = 2
  state_size: int = 16
  dt_rank: int | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.features % 2:
      raise ValueError(
        f"MambaDNA needs an even number of features; got {self.features}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    f = BiMamba(
      features=self.features // 2,
      expand=self.expand,
      state_size=self.state_size,
      dt_rank=self.dt_rank,
      implementation=self.implementation,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="strand",
    )
    B, T, D = x.shape
    turn = lambda a: a[:, ::-1]  # Along time.
    one, other = jnp.split(x, 2, axis=-1)
    # Both strands as rows of one batch, side by side so that a shard has both.
    rows = lambda a, b: jnp.stack([a, b], axis=1).reshape(2 * B, *a.shape[1:])
    ids = segment_ids
    y, _ = f(
      rows(one, turn(other)[..., ::-1]),
      segment_ids=None if ids is None else rows(ids, turn(ids)),
    )
    y = y.reshape(B, 2, T, D // 2)
    return jnp.concatenate([y[:, 0], turn(y[:, 1])[..., ::-1]], axis=-1), None
