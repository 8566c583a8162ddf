"""The token shift of RWKV (Peng et al. 2023, arXiv:2305.13048, sec. 3.1): x_{t-1} at t.

It is a short convolution of two taps, one and zero.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks
from jaxseq.ops.conv import short_conv

__all__ = ["token_shift"]


def token_shift(
  x: Float[Array, "B T D"],
  initial_state: Float[Array, "B D"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B D"]]:
  """Gives each token its predecessor in its document.

  Args:
    x: Inputs.
    initial_state: The input before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.

  Returns:
    The predecessors in the dtype of `x`, zeros where there is none, and the last token
    of the last document in float32.

  Raises:
    ValueError: If shapes do not fit.
  """
  arrays = dict(x=(x, "B T D"), initial_state=(initial_state, "B D"))
  checks.check_shapes("token_shift", **arrays, segment_ids=(segment_ids, "B T"))
  taps = jnp.zeros((2, x.shape[-1]), x.dtype).at[0].set(1)
  state = None if initial_state is None else initial_state[:, None]
  before, last = short_conv.short_conv(
    x, taps, initial_state=state, segment_ids=segment_ids, implementation="parallel"
  )
  return before, last[:, 0]
