"""FNet (Lee-Thorp et al. 2021, arXiv:2105.03824, sec. 3.2): y = Re(F_T x F_D).

The mixer has no parameters, and no norm: it stands where attention stands in a block,
whose feed-forward layer does the learning. Its transform is not scaled, so that outputs
grow with the root of T D.
"""

import flax.linen as nn

from jaxseq import ops
from jaxseq.modules.mixer import Mixer

__all__ = ["FNet"]


class FNet(Mixer):
  """The Fourier transform over tokens and channels, in float32."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    x = ops.segments.clear_padding(x, segment_ids)
    y = ops.fourier(x, segment_ids=segment_ids, implementation=self.implementation)
    return y, None
