"""Mixing by a T x T matrix of a given structure (Hwang et al. 2024, arXiv:2407.09941).

    o_i = sum_j M_ij v_j        over the document of token i, one matrix for each head

    dense          M_ij = W_ij
    Toeplitz       M_ij = a_{i-j}  if j <= i,   b_{j-i}  if j > i
    Vandermonde    M_ij = sum_n cos(q_in j) - cos(k_jn i)
    Cauchy         M_ij = sum_n 1 / (exp(q_in) + exp(k_jn) + c)

i and j are places in the document, from 0. Each token brings what its row, its column
or (Toeplitz) the diagonal as far from the main one as the token from the first is made
of. If these numbers come from the sequence itself, the paper calls the mixer aligned
with it (sec. 2.3); if they are parameters, there are only so many rows. Structures with
recurrences of their own are other ops: `noncausal_linear_attention` (low rank),
`scalar_decay` (semiseparable) and `quasiseparable`.

A Toeplitz matrix is a convolution, which takes O(T log T) by "fft". The others are made
block by block of rows; each block is made again in the backward pass.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = [
  "IMPLEMENTATIONS",
  "Inputs",
  "blockwise",
  "cauchy_matrix",
  "dense_matrix",
  "parallel",
  "prepare",
  "recurrent",
  "several_blocks",
  "toeplitz_matrix",
  "vandermonde_matrix",
]

BLOCK_SIZE = 64  # Rows: with 2,048 columns of 16 numbers a block of a head is 8 MB.


class Inputs(NamedTuple):
  """The arguments, as the forms take them.

  Attributes:
    entries: `entries(i, rows, j, columns)` gives the entries [B, R, S, H] of some rows
      at the columns of all tokens, whether or not they share a document.
    v: Values, zero at padding.
    rows: By token, what its row is made of; zero at padding.
    columns: Likewise for its column.
    position: Place of each token in its document.
    document: Number of the document in its row of the batch, -1 at padding.
    kernels: a and b of a Toeplitz matrix; None for the others.
    packed: Whether there were `segment_ids`.
  """

  entries: Callable
  v: Float[Array, "B T H V"]
  rows: tuple[Array, ...]
  columns: tuple[Array, ...]
  position: Int[Array, "B T"]
  document: Int[Array, "B T"]
  kernels: tuple[Array, ...] | None
  packed: bool


def dense_matrix(
  v: Float[Array, "B T H V"],
  weights: Float[Array, "H M M"],
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T H V"]:
  """Mixes values by a matrix without structure, the same for all documents.

  Args:
    v: Values.
    weights: W. Documents may have up to M tokens, which is checked of T.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, zero at padding. There is no state.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  sizes = checks.check_shapes(
    "dense_matrix", v=(v, "B T H V"), weights=(weights, "H M M")
  )
  if sizes["T"] > sizes["M"]:
    raise ValueError(
      f"dense_matrix needs weights of M >= T = {sizes['T']} tokens; got {sizes['M']}"
    )

  def entries(i, rows, j, columns):
    return jnp.moveaxis(weights[:, i[:, :, None], j[:, None]], 0, -1)

  arguments = "dense_matrix", entries, v, (), (), segment_ids
  return _mix(*arguments, implementation=implementation)


def toeplitz_matrix(
  v: Float[Array, "B T H V"],
  a: Float[Array, "B T H"],
  b: Float[Array, "B T H"],
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T H V"]:
  """Mixes values by weights of the distance: a convolution in both directions.

  Args:
    v: Values.
    a: At token d of a document, the weight of what stands d places to the left.
    b: Likewise to the right. That of distance 0 is not read.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    As `dense_matrix`.

  Raises:
    As `dense_matrix`.
  """
  name = "toeplitz_matrix"
  checks.check_shapes(name, v=(v, "B T H V"), a=(a, "B T H"), b=(b, "B T H"))
  T = v.shape[1]
  before = jnp.zeros(len(v), jnp.int32)
  start = jnp.arange(T) - segments.positions(segment_ids, before, v.shape[:2])

  def entries(i, rows, j, columns):
    (start,) = rows
    distance = i[:, :, None] - j[:, None]  # [B, R, S]
    token = jnp.clip(start[:, :, None] + jnp.abs(distance), 0, T - 1)
    of_token = jax.vmap(lambda x, n: x[n])
    left, right = (of_token(x, token) for x in columns)
    return jnp.where(distance[..., None] >= 0, left, right)

  arguments = name, entries, v, (start,), (a, b), segment_ids, (a, b)
  return _mix(*arguments, implementation=implementation)


def vandermonde_matrix(
  v: Float[Array, "B T H V"],
  q: Float[Array, "B T H N"],
  k: Float[Array, "B T H N"],
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T H V"]:
  """Mixes values by waves over the places, with frequencies of rows and of columns.

  Args:
    v: Values.
    q: Frequencies of the rows, in radians a token.
    k: Frequencies of the columns.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    As `dense_matrix`.

  Raises:
    As `dense_matrix`.
  """
  name = "vandermonde_matrix"
  checks.check_shapes(name, v=(v, "B T H V"), q=(q, "B T H N"), k=(k, "B T H N"))

  def entries(i, rows, j, columns):
    (q,), (k,) = rows, columns
    row = jnp.cos(q[:, :, None] * j[:, None, :, None, None])
    column = jnp.cos(k[:, None] * i[:, :, None, None, None])
    return jnp.sum(row - column, axis=-1)

  arguments = name, entries, v, (q,), (k,), segment_ids
  return _mix(*arguments, implementation=implementation)


def cauchy_matrix(
  v: Float[Array, "B T H V"],
  q: Float[Array, "B T H N"],
  k: Float[Array, "B T H N"],
  offset: Float[Array, ""] | float = 1e-8,
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T H V"]:
  """Mixes values by one over sums of positive numbers of rows and of columns.

  Args:
    v: Values.
    q: Natural logs of the rows' numbers.
    k: Natural logs of the columns' numbers.
    offset: c, added to the sums.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    As `dense_matrix`.

  Raises:
    As `dense_matrix`.
  """
  name = "cauchy_matrix"
  checks.check_shapes(name, v=(v, "B T H V"), q=(q, "B T H N"), k=(k, "B T H N"))

  def entries(i, rows, j, columns):
    (q,), (k,) = rows, columns
    return jnp.sum(1 / (jnp.exp(q)[:, :, None] + jnp.exp(k)[:, None] + offset), axis=-1)

  arguments = name, entries, v, (q,), (k,), segment_ids
  return _mix(*arguments, implementation=implementation)


def prepare(name, entries, v, rows, columns, segment_ids, kernels=None) -> Inputs:
  """Checks the values and clears padding; the rest as in `Inputs`.

  Args:
    name: The op's name, for messages.
    entries: Of the matrix.
    v: Values.
    rows: By token.
    columns: By token.
    segment_ids: Or None.
    kernels: Or None.
  """
  B, T = v.shape[:2]
  checks.check_shapes(name, v=(v, "B T H V"), segment_ids=(segment_ids, "B T"))
  kind = jnp.promote_types(v.dtype, jnp.float32)
  wide = lambda x: x.astype(kind) if jnp.issubdtype(x.dtype, jnp.floating) else x
  clear = functools.partial(segments.clear_padding, segment_ids=segment_ids)
  rows, columns, kernels = jax.tree.map(
    lambda x: clear(wide(x)), (rows, columns, kernels)
  )
  if segment_ids is None:  # The same in all rows of the batch.
    position, document = jnp.arange(T)[None], jnp.zeros((1, T), jnp.int32)
  else:
    position = segments.positions(segment_ids, jnp.zeros(B, jnp.int32))
    valid, _, index = segments.parse(segment_ids)
    document = jnp.where(valid, index, -1)
  packed = segment_ids is not None
  return Inputs(entries, clear(v), rows, columns, position, document, kernels, packed)


def _mix(name, *arguments, implementation):
  """The op of that name, from the arguments of `prepare`."""
  inputs = prepare(name, *arguments)
  T = inputs.v.shape[1]
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs).astype(inputs.v.dtype)


def _rows(inputs, i, document, rows):
  """The outputs of some tokens, by their rows of the matrix."""
  M = inputs.entries(i, rows, inputs.position, inputs.columns)
  same = document[:, :, None] == inputs.document[:, None]
  M = jnp.where(same[..., None], M, 0)
  M = jnp.broadcast_to(M, (len(inputs.v), *M.shape[1:]))
  o = chunks.product("brsh,bshv->brhv", M, inputs.v, like=inputs.v)
  return jnp.where((document < 0)[..., None, None], 0, o)


def recurrent(inputs):
  """The definition: one row at a time."""
  return _by_block(functools.partial(_rows, inputs), inputs, 1)


def blockwise(inputs):
  """Block by block of rows; the backward pass makes each again."""
  block = jax.checkpoint(functools.partial(_rows, inputs))
  return _by_block(block, inputs, min(BLOCK_SIZE, inputs.v.shape[1]))


def _by_block(block, inputs, size):
  tokens = (inputs.position, inputs.document, inputs.rows)
  o = jax.lax.map(lambda tokens: block(*tokens), blocks.split(tokens, size))
  return blocks.join(o, inputs.v.shape[1])


def parallel(inputs):
  """All rows at once."""
  return _rows(inputs, inputs.position, inputs.document, inputs.rows)


def several_blocks(inputs):
  """Whether all rows at once would take too much memory."""
  return inputs.v.shape[1] > BLOCK_SIZE


def fft(inputs):
  """A Toeplitz matrix as a circular convolution, on a circle on which nothing meets."""
  a, b = inputs.kernels
  T = inputs.v.shape[1]
  size = 1 << (2 * T - 1).bit_length()
  between = ((0, 0), (0, size - 2 * T + 1), (0, 0))
  circle = jnp.concatenate([jnp.pad(a, between), jnp.flip(b[:, 1:], axis=1)], axis=1)
  v = inputs.v.astype(a.dtype)
  spectrum = jnp.fft.rfft(v, size, axis=1) * jnp.fft.rfft(circle, axis=1)[..., None]
  return jnp.fft.irfft(spectrum, size, axis=1)[:, :T]


def _no_convolution(inputs):
  if inputs.kernels is None:
    return "the matrix is not a Toeplitz matrix"
  return "it takes one document a row, not segment_ids" if inputs.packed else None


def _short(inputs):
  """For each channel transforms take 15 T log2(2T) operations, the matrix 2 T^2."""
  T = inputs.v.shape[1]
  return 2 * T < 15 * math.log2(2 * T)


IMPLEMENTATIONS = {
  "fft": Form(fft, _no_convolution, _short),
  "parallel": Form(parallel, slow=several_blocks),
  "blockwise": Form(blockwise),
  "recurrent": Form(recurrent),
}
