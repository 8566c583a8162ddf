"""MambaMixer (Behrouz et al. 2024, arXiv:2403.19888, sec. 3.1): Mamba over tokens, then
over channels.

y_token = Token(x),   y_channel = Channel(x + y_token),   y = y_token + y_channel

Token is Mamba on a sequence and `CrossScanMamba` on an image. Channel takes channels
for the tokens of a sequence, the features of each being its values at all tokens, and
reads that sequence in both directions:

Channel(x) = BiMamba(x^T)^T

Its convolution is 1-D. Both directions have one input projection, of which the paper
does not speak. Weighted averages of all earlier layers, in place of the sums above, are
`models.DenseBackbone`.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.modules.grid.cross_scan_mamba import CrossScanMamba
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.ssm.caduceus import BiMamba
from jaxseq.modules.ssm.mamba import Mamba

__all__ = ["MambaMixer", "SelectiveChannelMixer"]


class SelectiveChannelMixer(Mixer):
  """Mamba in both directions over the channels.

  Attributes:
    num_tokens: Tokens that it takes at most; fewer are filled up with zeros.
    expand: Width of the state space, as a multiple of `num_tokens`.
    state_size: N, numbers of state for each of these.
  """

  num_tokens: int = 32
  expand: int = 1
  state_size: int = 16

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    _refuse_documents(self, segment_ids)
    T = x.shape[1]
    if T > self.num_tokens:
      raise ValueError(
        f"SelectiveChannelMixer needs at most num_tokens = {self.num_tokens} tokens; "
        f"got {T}"
      )
    over_channels = BiMamba(
      features=self.num_tokens,
      expand=self.expand,
      state_size=self.state_size,
      implementation=self.implementation,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="over_channels",
    )
    x = jnp.pad(x, ((0, 0), (0, self.num_tokens - T), (0, 0)))
    y, _ = over_channels(x.swapaxes(1, 2))
    return y.swapaxes(1, 2)[:, :T], None


class MambaMixer(Mixer):
  """A selective mixer of tokens and one of channels.

  Attributes:
    grid: Rows and columns of the image; None is a sequence, read forwards.
    num_tokens: Tokens that it takes at most.
    expand: Channels of the token mixer, as a multiple of `features`.
    channel_expand: Width of the channel mixer, as a multiple of `num_tokens`.
    state_size: N, numbers of state in both.
  """

  grid: tuple[int, int] | None = None
  num_tokens: int = 32
  expand: int = 2
  channel_expand: int = 1
  state_size: int = 16

  def __post_init__(self):
    super().__post_init__()
    if self.grid is not None and math.prod(self.grid) != self.num_tokens:
      raise ValueError(
        f"MambaMixer needs num_tokens = {math.prod(self.grid)}, the size of the grid; "
        f"got {self.num_tokens}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    _refuse_documents(self, segment_ids)
    shared = dict(
      state_size=self.state_size,
      implementation=self.implementation,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    sizes = dict(features=self.features, expand=self.expand)
    if self.grid is None:
      mix_tokens = Mamba(**sizes, **shared, name="token")
    else:
      mix_tokens = CrossScanMamba(**sizes, grid=self.grid, **shared, name="token")
    mix_channels = SelectiveChannelMixer(
      features=self.features,
      num_tokens=self.num_tokens,
      expand=self.channel_expand,
      **shared,
      name="channel",
    )
    y, _ = mix_tokens(x)
    z, _ = mix_channels(x + y)
    return y + z, None


def _refuse_documents(mixer, segment_ids):
  if segment_ids is not None:
    raise ValueError(
      f"{type(mixer).__name__} has weights for each token of the row: it takes no "
      "segment_ids"
    )
