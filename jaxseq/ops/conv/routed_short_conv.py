"""The short causal depthwise convolution along the tokens that go to the same state.

    y_tr = act(sum_w weight_w x_{t', r'})        w = 0 .. W-1

Of all that is routed to m = route_tr, (t', r') is W-1-w before (t, r). The state is the
last W - 1 inputs of each m. What goes to one m is put together, after the state of that
m: then it is a `short_conv` of documents.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, routed, segments
from jaxseq.ops.conv import short_conv

__all__ = ["IMPLEMENTATIONS", "routed_short_conv"]


def routed_short_conv(
  x: Float[Array, "B T R D"],
  weight: Float[Array, "W D"],
  route: Int[Array, "B T R"],
  num_states: int,
  *,
  activation: str | None = None,
  initial_state: Float[Array, "B M W-1 D"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T R D"], Float[Array, "B M W-1 D"]]:
  """Mixes each channel over the last W tokens that went the same way.

  Args:
    x: Inputs of each token for each of the R states that it is routed to.
    weight: Taps, the current token's last.
    route: Numbers of the states, below M; those of a token differ. Not checked.
    num_states: M.
    activation: A key of `short_conv.ACTIVATIONS`.
    initial_state: The last W - 1 inputs of each state before. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `x`, summed in float32, and the last W - 1 inputs of each
    state in float32, zeros where there are fewer in the last document.

  Raises:
    ValueError: If shapes do not fit, or the activation or implementation is unknown.
  """
  sizes = checks.check_shapes(
    "routed_short_conv",
    x=(x, "B T R D"),
    weight=(weight, "W D"),
    route=(route, "B T R"),
    segment_ids=(segment_ids, "B T"),
  )
  B, T, R, D, W = (sizes[letter] for letter in "BTRDW")
  shape, history = (B, num_states, W - 1, D), initial_state
  if history is None:
    history = jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32))
  if history.shape != shape:
    raise ValueError(
      f"routed_short_conv needs initial_state [B, M, W - 1, D] = {shape}; "
      f"got shape {history.shape}"
    )
  x = segments.clear_padding(x, segment_ids)
  route, document = routed.destinations(route, num_states, segment_ids)
  at = routed.streams(route, document, num_states, size=1, head=W - 1)
  rows = jnp.arange(B)[:, None, None]
  heads = rows, at.begins[..., None] + jnp.arange(W - 1)  # [B, M, W - 1]
  tails = rows, at.ends[..., None] + jnp.arange(1 - W, 0)
  inside = (at.slot < T * R).at[heads].set(True)
  documents = routed.take(document, at.slot)
  ids = jnp.where(inside, 1 + at.state * T + documents, 0)
  stream = routed.take(x.reshape(B, T * R, D), at.slot)
  stream = stream.at[heads].set(history.astype(x.dtype))
  y, _ = short_conv.short_conv(
    stream,
    weight,
    activation=activation,
    segment_ids=ids,
    implementation=implementation,
  )
  y = routed.take(y, at.place).reshape(x.shape)
  current = (documents == document[:, -1:])[tails][..., None]
  return y, jnp.where(current, stream[tails], 0).astype(history.dtype)


IMPLEMENTATIONS = short_conv.IMPLEMENTATIONS
