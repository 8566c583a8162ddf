"""The causal convolution of each channel with a filter of any length.

    y_t = sum_l kernel_l x_{t-l} + skip x_t          l = 0 .. L-1

Hyena, H3, SGConv and TNN are made of it, and what S4 computes in training. The state is
the last L - 1 inputs: a filter that is as long as the sequence has no smaller one.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, checks, dispatch, fourier, segments
from jaxseq.ops.conv import short_conv
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "fft_conv"]


def fft_conv(
  x: Float[Array, "B T D"],
  kernel: Float[Array, "L D"],
  skip: Float[Array, "D"] | None = None,
  *,
  initial_state: Float[Array, "B L-1 D"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T D"], Float[Array, "B L-1 D"]]:
  """Mixes each channel over its last L tokens.

  Args:
    x: Inputs.
    kernel: The filters, the current token's tap first. L may be more or less than T.
    skip: Share of the input that is added to the output.
    initial_state: The L - 1 inputs before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto". The errors of "fft" and
      "chunked" are a share of the largest output of a row or a block, so that much
      smaller ones are lost to it.

  Returns:
    Outputs in the dtype of `x`, summed in float32, and the last L - 1 inputs of the
    last document in float32, zeros where it is shorter.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  sizes = checks.check_shapes(
    "fft_conv",
    x=(x, "B T D"),
    kernel=(kernel, "L D"),
    skip=(skip, "D"),
    segment_ids=(segment_ids, "B T"),
  )
  B, T, D, L = (sizes[letter] for letter in "BTDL")
  if initial_state is not None and initial_state.shape != (B, L - 1, D):
    raise ValueError(
      f"fft_conv needs initial_state [B, L - 1, D] = {(B, L - 1, D)}; "
      f"got shape {initial_state.shape}"
    )
  kind = jnp.promote_types(jnp.result_type(x, kernel), jnp.float32)
  taps, state = kernel.astype(kind), initial_state
  if state is None:  # Then no tap reaches back further than T - 1 tokens.
    taps = taps[: T + 1]
    state = jnp.zeros((B, len(taps) - 1, D), kind)
  inputs = segments.clear_padding(x.astype(kind), segment_ids)
  args = (inputs, taps, state.astype(kind), segment_ids)
  run = dispatch.select("fft_conv", IMPLEMENTATIONS, implementation, T, *args)
  y, last = run(*args)
  if skip is not None:
    y += skip.astype(kind) * inputs
  last = jnp.pad(last, ((0, 0), (L - len(taps), 0), (0, 0)))
  return segments.clear_padding(y, segment_ids).astype(x.dtype), last


def recurrent(x, kernel, state, segment_ids):
  """The definition: a window of L inputs that moves on at each real token."""
  return short_conv.recurrent(x, kernel[::-1], None, None, state, segment_ids)


def parallel(x, kernel, state, segment_ids):
  """The Toeplitz matrix a diagonal at a time: T L products a channel."""
  extended, numbers, last = extend(x, state, segment_ids)
  return _sum_of_taps(extended, numbers, kernel), last


def fft(x, kernel, state, segment_ids):
  """A product of spectra, of the inputs and the L - 1 before them: O(T log T).

  A transform as long as both wraps around only into the outputs of those before.
  """
  extended, _, last = extend(x, state, segment_ids)
  size = _power_of_two(extended.shape[1])
  y = fourier.circular(extended, kernel, size)
  return y[:, state.shape[1] : extended.shape[1]], last


def chunked(x, kernel, state, segment_ids):
  """Blocks of C tokens, each with that m blocks before it, by short transforms.

      y_i = sum_m irfft(rfft(taps from (m - 1) C to (m + 1) C) rfft(x_{i-m}))

  A document that two blocks share is the last of the earlier one and the first of the
  later. So masks on blocks and on pairs of blocks keep documents apart; within a block,
  which may hold many, the sum goes tap by tap. With C near 4 L^1/2 both cost O(T L^1/2)
  products a channel, and the memory is that of the inputs.
  """
  (B, T, D), L = x.shape, len(kernel)
  C = min(_power_of_two(4 * L**0.5), _power_of_two(T))
  before, own = -(-(L - 1) // C), -(-T // C)  # Blocks of the state, and of the inputs.
  extended, numbers, last = extend(x, state, segment_ids)
  cut = lambda a: blocks.split(_pad_left(a, before * C - (L - 1)), C)
  extended = cut(extended)  # [before + own, B, C, D]
  taps = jnp.pad(kernel, ((C, (before + 1) * C - L), (0, 0))).reshape(-1, C, D)
  taps = jnp.fft.rfft(jnp.concatenate([taps[1:], taps[:-1]], axis=1), axis=1)
  distances = jnp.arange(before + 1)
  if numbers is not None:
    numbers = cut(numbers)
    rows = lambda a: _pad_left(a[before:].reshape(own * B, C, *a.shape[3:]), C - 1)
    near = jnp.pad(kernel[:C], ((0, max(C - L, 0)), (0, 0)))
    near = _sum_of_taps(rows(extended), rows(numbers), near).reshape(own, B, C, D)
    extended = jnp.where((numbers == numbers[..., -1:])[..., None], extended, 0)
    distances, taps = distances[1:], taps[1:]
  spectra = jnp.fft.rfft(extended, 2 * C, axis=2)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add_distance(y, lag):
    m, taps = lag
    earlier = lambda a: jax.lax.dynamic_slice_in_dim(a, before - m, own)
    x = earlier(spectra)
    if numbers is not None:
      shared = earlier(numbers[..., -1]) == numbers[before:, :, 0]
      x = jnp.where(shared[..., None, None], x, 0)
    return y + taps * x, None

  y, _ = jax.lax.scan(add_distance, jnp.zeros_like(spectra[before:]), (distances, taps))
  y = jnp.fft.irfft(y, 2 * C, axis=2)[:, :, :C]
  if numbers is not None:
    first = numbers[before:] == numbers[before:, :, :1]
    y = near + jnp.where(first[..., None], y, 0)
  return blocks.join(y, T), last


def extend(x, state, segment_ids):
  """The inputs and those before them, in one row.

  Returns:
    [B, L - 1 + T, D], zero at padding; for packed documents the number of the document
    that each belongs to, padding having that of its predecessor, else None; and the
    state after the row's last real token.
  """
  if segment_ids is None:
    extended = jnp.concatenate([state, x], axis=1)
    return extended, None, extended[:, x.shape[1] :]
  extended, numbers, last = short_conv.place_state(x, state, segment_ids)
  return extended, jax.lax.cummax(jnp.maximum(numbers, 0), axis=1), last


def _sum_of_taps(extended, numbers, kernel):
  """y_t = sum_l kernel_l x_{t-l} for all but the first L - 1 tokens."""
  L = len(kernel)
  T = extended.shape[1] - (L - 1)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add_tap(y, tap):
    lag, weight = tap
    window = lambda a: jax.lax.dynamic_slice_in_dim(a, L - 1 - lag, T, axis=1)
    x = window(extended)
    if numbers is not None:
      same = window(numbers) == numbers[:, L - 1 :]
      x = jnp.where(same[..., None], x, 0)
    return y + weight * x, None

  y, _ = jax.lax.scan(
    add_tap, jnp.zeros_like(extended[:, L - 1 :]), (jnp.arange(L), kernel)
  )
  return y


def _pad_left(x, count):
  return jnp.pad(x, ((0, 0), (count, 0)) + ((0, 0),) * (x.ndim - 2))


def _power_of_two(number):
  """The least that is no smaller."""
  return 1 << (math.ceil(number) - 1).bit_length()


def _packed(x, kernel, state, segment_ids):
  if segment_ids is not None:
    return "it does not keep packed documents apart; the other forms do"


IMPLEMENTATIONS = {
  "fft": Form(fft, _packed),
  "chunked": Form(chunked),
  "parallel": Form(parallel),
  "recurrent": Form(recurrent),
}
