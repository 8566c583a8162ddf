"""The causal convolution with a matrix for each tap.

    y_t = sum_l W_l^T x_{t-l}          l = 0 .. L-1,  W_l [D, E]

`fft_conv` and `short_conv` have a number for each tap and channel in place of the
matrix. The state is the last L - 1 inputs.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch, segments
from jaxseq.ops.conv import fft_conv
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "dense_conv"]


def dense_conv(
  x: Float[Array, "B T D"],
  kernel: Float[Array, "L D E"],
  *,
  initial_state: Float[Array, "B L-1 D"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T E"], Float[Array, "B L-1 D"]]:
  """Maps each token and its L - 1 predecessors by a matrix each, and adds up.

  Args:
    x: Inputs.
    kernel: The matrices, the current token's first. L may be more or less than T.
    initial_state: The L - 1 inputs before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `x`, summed in float32, and the last L - 1 inputs of the
    last document in float32, zeros where it is shorter.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  sizes = checks.check_shapes(
    "dense_conv",
    x=(x, "B T D"),
    kernel=(kernel, "L D E"),
    segment_ids=(segment_ids, "B T"),
  )
  B, T, D, L = (sizes[letter] for letter in "BTDL")
  if initial_state is not None and initial_state.shape != (B, L - 1, D):
    raise ValueError(
      f"dense_conv needs initial_state [B, L - 1, D] = {(B, L - 1, D)}; "
      f"got shape {initial_state.shape}"
    )
  kind = jnp.promote_types(x.dtype, jnp.float32)
  taps, state = kernel, initial_state
  if state is None:  # Then no tap reaches back further than T - 1 tokens.
    taps = taps[: T + 1]
    state = jnp.zeros((B, len(taps) - 1, D), kind)
  inputs = segments.clear_padding(x.astype(kind), segment_ids)
  args = inputs, taps, state.astype(kind), segment_ids, x.dtype
  run = dispatch.select("dense_conv", IMPLEMENTATIONS, implementation, T, *args)
  y, last = run(*args)
  last = jnp.pad(last, ((0, 0), (L - len(taps), 0), (0, 0)))
  return segments.clear_padding(y, segment_ids).astype(x.dtype), last


def recurrent(x, kernel, state, segment_ids, dtype):
  """The definition: a window of L inputs that moves on at each real token."""
  if segment_ids is None:
    segment_ids = jnp.ones(x.shape[:2], jnp.int32)
  parsed = segments.parse(segment_ids)

  def step(state, token):
    x, valid, start = token
    valid, start = valid[:, None, None], start[:, None, None]
    window = jnp.concatenate([jnp.where(start, 0, state), x[:, None]], axis=1)
    y = _product("bld,lde->be", window[:, ::-1], kernel, dtype)
    return jnp.where(valid, window[:, 1:], state), y

  tokens = jax.tree.map(lambda a: a.swapaxes(0, 1), (x, parsed.valid, parsed.starts))
  state, y = jax.lax.scan(step, state, tokens)
  return y.swapaxes(0, 1), state


def parallel(x, kernel, state, segment_ids, dtype):
  """The sum over taps of products of matrices with the inputs that many tokens back."""
  extended, numbers, last = fft_conv.extend(x, state, segment_ids)
  L, T = len(kernel), x.shape[1]

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add_tap(y, tap):
    lag, W = tap
    window = lambda a: jax.lax.dynamic_slice_in_dim(a, L - 1 - lag, T, axis=1)
    x = window(extended)
    if numbers is not None:
      same = window(numbers) == numbers[:, L - 1 :]
      x = jnp.where(same[..., None], x, 0)
    return y + _product("btd,de->bte", x, W, dtype), None

  y = jnp.zeros((*x.shape[:2], kernel.shape[2]), x.dtype)
  y, _ = jax.lax.scan(add_tap, y, (jnp.arange(L), kernel))
  return y, last


def convolution(x, kernel, state, segment_ids, dtype):
  """XLA's own convolution."""
  extended, _, last = fft_conv.extend(x, state, segment_ids)
  if dtype != jnp.bfloat16:
    dtype = x.dtype
  y = jax.lax.conv_general_dilated(
    extended.astype(dtype),
    kernel[::-1].astype(dtype),
    (1,),
    "VALID",
    dimension_numbers=("NHC", "HIO", "NHC"),
    precision="highest",
  )
  return y.astype(x.dtype), last


def _product(spec, x, W, dtype):
  return chunks.product(spec, x, W, like=jax.ShapeDtypeStruct((), dtype))


def _packed(x, kernel, state, segment_ids, dtype):
  if segment_ids is not None:
    return "it does not keep packed documents apart; the other forms do"


IMPLEMENTATIONS = {
  "convolution": Form(convolution, _packed),
  "parallel": Form(parallel),
  "recurrent": Form(recurrent),
}
