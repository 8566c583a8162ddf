"""Meta-State (Xiao et al. 2025, arXiv:2504.08247): RWKV-7 with a self-state encoder.

y_t = RWKV7(x)_t
e_t = S_t^T (z_t / |z_t|),    z_t = x_t + y_t       by head, for some of the heads

and the output is y_t + e_t: part of the memory is used once more, as the weights of a
linear transform of the token, in place of RWKV's channel mixing and without parameters
or a softmax of its own. (Use it in a stack without MLPs.)

The paper's abstract says as much and no more, which leaves open: what part of the state
(here whole heads, each for the channels of its own), what is transformed (here the
token after time mixing; in a stack with norms before the mixers x_t is the norm's
output), whether it is normalised (here it is, as the states have no fixed scale), and
how it is added. Growing the model by wider states is not here.
"""

import jax.numpy as jnp

from jaxseq import layers
from jaxseq.modules.delta.rwkv7 import RWKV7

__all__ = ["MetaState"]


class MetaState(RWKV7):
  """RWKV-7 whose memory transforms the tokens too.

  Attributes:
    num_heads: Heads H.
    encoder_heads: How many heads' memories are transforms too. Half of them if None.
  """

  encoder_heads: int | None = None

  def __post_init__(self):
    super().__post_init__()
    if not 1 <= self.transforms <= self.num_heads:
      raise ValueError(
        f"MetaState needs encoder_heads from 1 to num_heads = {self.num_heads}; "
        f"got {self.encoder_heads}"
      )

  @property
  def transforms(self) -> int:
    if self.encoder_heads is None:
      return max(1, self.num_heads // 2)
    return self.encoder_heads

  def _finish(self, x, y, tokens, memory, segment_ids):
    n = self.transforms
    z = layers.l2_normalize(self._heads(x + y)).astype(self.dtype)
    tokens = [t[:, :, :n] for t in tokens]
    memory = None if memory is None else memory[:, :n]
    e, _ = self._read(z[:, :, :n], tokens, memory, segment_ids)
    rest = [(0, 0), (0, 0), (0, self.num_heads - n), (0, 0)]
    return y + jnp.pad(e, rest).reshape(y.shape).astype(y.dtype)
