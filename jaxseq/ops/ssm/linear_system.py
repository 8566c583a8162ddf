"""A linear time-invariant system for each channel: LSSL, S4, S4D, DSS and GSS.

    h_t = A h_{t-1} + B x_t,    y_t = Re(C h_t)        A [N, N], or diagonal and complex

Unrolled, the outputs are a convolution of the inputs and what the state before them
leaves (LSSL, Gu et al. 2021, arXiv:2110.13985, eq. 4 and 5):

    y_t = sum_l K_l x_{t-l} + C A^{t+1} h_{-1},    K_l = Re(C A^l B)

Powers of A come by squaring. With l = i S + j and S near the root of the length, K_l is
the product of a row C (A^S)^i and a column A^j B, so that neither is held for all l.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from jaxseq.ops import blocks, checks, dispatch, fourier, segments
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "linear_system"]

CHUNK_SIZE = (
  32  # Tokens, a power of 2: products of pairs of tokens are made of so many.
)


def linear_system(
  x: Float[Array, "B T D"],
  A: Inexact[Array, "D N"] | Inexact[Array, "D N N"],
  B: Inexact[Array, "D N"],
  C: Inexact[Array, "D M N"],
  *,
  kernel: Float[Array, "L D M"] | None = None,
  initial_state: Inexact[Array, "B D N"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T D M"], Inexact[Array, "B D N"]]:
  """Runs D systems of one input and M outputs, each on its own channel.

  Args:
    x: Inputs.
    A: Transitions: matrices, or the diagonals of diagonal ones. Not checked; a modulus
      over 1 grows.
    B: Input vectors.
    C: Output vectors. For one state of each conjugate pair, twice them.
    kernel: Re(C A^l B) for l < L where there is a faster way to it, L no less than T.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `x`, and the last state in at least float32 or complex64.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  sizes = checks.check_shapes(
    "linear_system",
    x=(x, "B T D"),
    A=(A, "D N" if A.ndim == 2 else "D N N"),
    B=(B, "D N"),
    C=(C, "D M N"),
    kernel=(kernel, "L D M"),
    initial_state=(initial_state, "B D N"),
    segment_ids=(segment_ids, "B T"),
  )
  T = sizes["T"]
  if kernel is not None and len(kernel) < T:
    raise ValueError(f"linear_system needs a kernel of T = {T} taps; got {len(kernel)}")
  real = jnp.promote_types(x.dtype, jnp.float32)
  given = [z for z in (A, B, C, initial_state) if z is not None]
  kind = jnp.promote_types(jnp.result_type(*given), real)
  A, B, C = (z.astype(kind) for z in (A, B, C))
  state = None if initial_state is None else initial_state.astype(kind)
  parsed = None if segment_ids is None else segments.parse(segment_ids)
  inputs = segments.clear_padding(x.astype(real), segment_ids)
  args = (inputs, A, B, C, kernel, state, parsed)
  run = dispatch.select("linear_system", IMPLEMENTATIONS, implementation, T, *args)
  y, last = run(*args)
  return segments.clear_padding(y, segment_ids).astype(x.dtype), last


def recurrent(x, A, B, C, kernel, state, parsed):
  """The definition."""
  del kernel
  state, parsed = _complete(x, B, state, parsed)

  def step(h, token):
    x, valid, start = token
    valid, start = valid[:, None, None], start[:, None, None]
    after = _times(A, jnp.where(start, 0, h)) + B * x[..., None]
    h = jnp.where(valid, after, h)
    return h, _einsum("dmn,bdn->bdm", C, h).real

  tokens = (x, parsed.valid, parsed.starts)
  last, y = jax.lax.scan(step, state, jax.tree.map(lambda z: z.swapaxes(0, 1), tokens))
  return y.swapaxes(0, 1), last


def chunked(x, A, B, C, kernel, state, parsed):
  """Chunks of S tokens: `K` within one, and the state from one to the next.

  The state steps at real tokens only, so what a chunk leaves of the state before it is
  A^n with n its number of them: a product of some of A, A^2, A^4, ..., A^S.
  """
  state, parsed = _complete(x, B, state, parsed)
  T = x.shape[1]
  S = min(CHUNK_SIZE, 1 << (T - 1).bit_length())
  powers = _powers(A, S)
  writes = _krylov(powers, B, S)  # A^l B, [S, D, N]
  rows = [_transposed(power) for power in powers]
  reads = _krylov(rows, _times(rows[0], C.swapaxes(0, 1)), S)  # C A^{l+1}, [S, M, D, N]
  kernel = _einsum("dmn,ldn->ldm", C, writes).real if kernel is None else kernel[:S]
  kernel = jnp.pad(kernel, ((0, S - len(kernel)), (0, 0), (0, 0)))
  lag = jnp.arange(S)[:, None] - jnp.arange(S)
  toeplitz = kernel[lag % S]  # [S, S, D, M], masked below.

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def step(h, chunk):
    x, valid, starts = chunk
    document = jnp.cumsum(starts, axis=1)  # 0 is the one that h belongs to.
    count = jnp.cumsum(valid, axis=1)  # Real tokens so far.
    before = (lag >= 0) & (document[:, :, None] == document[:, None])
    y = _einsum("bijdm,bjd->bidm", jnp.where(before[..., None, None], toeplitz, 0), x)
    left = _einsum("lmdn,bdn->bldm", reads, h).real
    place = jnp.maximum(count - 1, 0)[..., None, None]
    left = jnp.take_along_axis(left, place, axis=1)
    y += jnp.where((document == 0)[..., None, None], left, 0)

    last = valid & (document == document[:, -1:])
    ago = jnp.where(last, count[:, -1:] - count, S)  # Places past the end are dropped.
    put = jax.vmap(lambda x, i: jnp.zeros_like(x).at[i].set(x, mode="drop"))
    bit = 1
    for power in powers:
      stepped = ((count[:, -1] & bit) > 0)[:, None, None]
      h, bit = jnp.where(stepped, _times(power, h), h), 2 * bit
    h = jnp.where((document[:, -1] == 0)[:, None, None], h, 0)
    return h + _einsum("ldn,bld->bdn", writes, put(x, ago)), y

  chunks = blocks.split((x, parsed.valid, parsed.starts), S)
  last, y = jax.lax.scan(step, state, chunks)
  return blocks.join(y, T), last


def convolution(x, A, B, C, kernel, state, parsed):
  """All outputs by FFT; its errors are a share of the largest output.

  The state after them comes from `chunked`; where nobody asks for it, XLA drops that.
  """
  taps = _kernel(A, B, C, x.shape[1]) if kernel is None else kernel
  _, last = chunked(x, A, B, C, kernel, state, parsed)
  return fourier.causal(x[..., None], taps.astype(x.dtype)), last


def _continued(x, A, B, C, kernel, state, parsed):
  if state is not None:
    return "it begins with an empty state; the other forms take one"
  if parsed is not None:
    return "it does not keep packed documents apart; the other forms do"


def _complete(x, B, state, parsed):
  """The empty state and one document a row, where there are none."""
  if state is None:
    state = jnp.zeros((len(x), *B.shape), B.dtype)
  if parsed is None:
    parsed = segments.parse(jnp.ones(x.shape[:2], jnp.int32))
  return state, parsed


def _kernel(A, B, C, length):
  """Re(C A^l B), [length, D, M]."""
  S = 1 << (length.bit_length() + 1) // 2
  powers = _powers(A, S)
  count = -(-length // S)
  columns = _krylov(powers, B, S)
  rows = _krylov(_powers(_transposed(powers[-1]), count), C.swapaxes(0, 1), count)
  taps = _einsum("imdn,jdn->ijdm", rows, columns).real
  return taps.reshape(count * S, *taps.shape[2:])[:length]


def _powers(A, length):
  """A, A^2, A^4, ... up to the first exponent that is no less than `length`."""
  powers = [A]
  while 1 << (len(powers) - 1) < length:
    A = A * A if A.ndim == 2 else _einsum("dij,djk->dik", A, A)
    powers.append(A)
  return powers


def _krylov(powers, v, length):
  """A^l v for l < length, [length, ..., D, N], of A's `_powers` and v [..., D, N]."""
  vectors = v[None]
  for power in powers:
    if len(vectors) < length:
      vectors = jnp.concatenate([vectors, _times(power, vectors)])
  return vectors[:length]


def _times(A, v):
  """A v, for matrices A or their diagonals, v [..., D, N]."""
  return A * v if A.ndim == 2 else _einsum("dij,...dj->...di", A, v)


def _transposed(A):
  return A if A.ndim == 2 else A.swapaxes(1, 2)


_einsum = functools.partial(jnp.einsum, precision="highest")


IMPLEMENTATIONS = {
  "convolution": Form(convolution, _continued),
  "chunked": Form(chunked),
  "recurrent": Form(recurrent),
}
