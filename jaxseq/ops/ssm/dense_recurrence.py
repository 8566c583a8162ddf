"""The linear recurrence with a dense matrix, the same for all tokens and channels.

    m_t = A m_{t-1} + B u_t                  state [N], for each of D channels of u

The memory of Voelker's LMU, and of all that keeps HiPPO's matrices whole. Without a
state before it, it is the convolution with its impulse response (Chilkuri & Eliasmith
2021, arXiv:2102.11417, eq. 23 to 26):

    m_t = sum_{l<=t} A^l B u_{t-l}
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "dense_recurrence"]


def dense_recurrence(
  u: Float[Array, "B T D"],
  A: Float[Array, "N N"],
  B: Float[Array, "N"],
  *,
  initial_state: Float[Array, "B D N"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T D N"], Float[Array, "B D N"]]:
  """Feeds each channel into a memory of its own.

  Args:
    u: Inputs.
    A: What becomes of a memory at each token. Its powers should not grow.
    B: Where the input goes.
    initial_state: Memories before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto". The error of "fft" is a share
      of the largest value of a row.

  Returns:
    All memories in the dtype of `u`, summed in float32, and the last in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  sizes = checks.check_shapes(
    "dense_recurrence",
    u=(u, "B T D"),
    B=(B, "N"),
    initial_state=(initial_state, "B D N"),
    segment_ids=(segment_ids, "B T"),
  )
  if A.shape != (sizes["N"],) * 2:
    raise ValueError(
      f"dense_recurrence needs A [N, N] with N = {sizes['N']}; got shape {A.shape}"
    )
  kind = jnp.promote_types(jnp.result_type(u, A), jnp.float32)
  inputs = segments.clear_padding(u, segment_ids).astype(kind)
  state = initial_state if initial_state is None else initial_state.astype(kind)
  # Constants would have their powers taken while the program is compiled.
  A, B = jax.lax.optimization_barrier((jnp.asarray(A, kind), jnp.asarray(B, kind)))
  args = (inputs, A, B, state, segment_ids)
  run = dispatch.select(
    "dense_recurrence", IMPLEMENTATIONS, implementation, sizes["T"], *args
  )
  m, last = run(*args)
  return segments.clear_padding(m, segment_ids).astype(u.dtype), last


def recurrent(u, A, B, state, segment_ids):
  """The definition."""

  def step(m, token):
    u, valid, start = token
    valid, start = valid[:, None, None], start[:, None, None]
    new = _apply(A, jnp.where(start, 0, m)) + B * u[..., None]
    m = jnp.where(valid, new, m)
    return m, m

  tokens = (u, *_documents(u, segment_ids))
  tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), tokens)
  last, m = jax.lax.scan(step, _state(u, B, state), tokens)
  return m.swapaxes(0, 1), last


def fft(u, A, B, state, segment_ids):
  """The convolution by spectra, and what is left of the state at each token."""
  T = u.shape[1]
  taps = _orbit(A, B, T)  # [T, N]
  transform = functools.partial(jnp.fft.rfft, n=2 * T, axis=0)
  spectra = transform(jnp.moveaxis(u, 1, 0))[..., None] * transform(taps)[:, None, None]
  m = jnp.fft.irfft(spectra, n=2 * T, axis=0)[:T]
  if state is not None:
    m += _orbit(A, _apply(A, state), T)
  return jnp.moveaxis(m, 0, 1), m[-1]


def chunked(u, A, B, state, segment_ids):
  """Within a chunk a Toeplitz matrix of taps; the memory goes from chunk to chunk.

  The backward pass makes each chunk again.
  """
  T = u.shape[1]
  C = chunks.size_for(T)
  place = jnp.arange(C)
  lag = place[:, None] - place
  taps = _orbit(A, B, C)
  toeplitz = jnp.where((lag >= 0)[..., None], taps[jnp.maximum(lag, 0)], 0)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def step(state, block):
    u, valid, starts = block
    number = jnp.cumsum(starts, axis=1)  # Of the document.
    same = (number[:, :, None] == number[:, None]) & valid[:, None]
    inputs = jnp.where(same[..., None], u[:, None], 0)  # [B, C, C, D], i sees j.
    m = chunks.product("ijn,bijd->bidn", toeplitz, inputs, like=u)
    count = jnp.cumsum(valid, axis=1)  # Tokens so far, i.e. powers of A.
    left = jnp.moveaxis(_orbit(A, state, C + 1), 0, 1)
    left = jnp.take_along_axis(left, count[..., None, None], axis=1)
    m += jnp.where((number == 0)[..., None, None], left, 0)
    end = jnp.where(valid.any(axis=1), C - 1 - valid[:, ::-1].argmax(axis=1), 0)
    last = jnp.take_along_axis(m, end[:, None, None, None], axis=1)[:, 0]
    return jnp.where(valid.any(axis=1)[:, None, None], last, state), m

  tokens = blocks.split((u, *_documents(u, segment_ids)), C)
  last, m = jax.lax.scan(step, _state(u, B, state), tokens)
  return blocks.join(m, T), last


def _apply(A, m):
  return chunks.product("nk,...k->...n", A, m, like=m)


def _orbit(A, x, count):
  """[x, A x, A^2 x, ...], twice as many with each product."""
  orbit = x[None]
  while len(orbit) < count:
    orbit = jnp.concatenate([orbit, _apply(A, orbit)])
    if len(orbit) < count:
      A = chunks.product("nk,kl->nl", A, A, like=A)
  return orbit[:count]


def _state(u, B, state):
  """Zeros if there is none."""
  shape = (len(u), u.shape[2], len(B))
  return jnp.zeros(shape, u.dtype) if state is None else state


def _documents(u, segment_ids):
  """Which tokens are real, and which start a document."""
  if segment_ids is None:
    segment_ids = jnp.ones(u.shape[:2], jnp.int32)
  parsed = segments.parse(segment_ids)
  return parsed.valid, parsed.starts


def _packed(u, A, B, state, segment_ids):
  if segment_ids is not None:
    return "it does not keep packed documents apart; the other forms do"


IMPLEMENTATIONS = {
  "fft": Form(fft, _packed),
  "chunked": Form(chunked),
  "recurrent": Form(recurrent),
}
