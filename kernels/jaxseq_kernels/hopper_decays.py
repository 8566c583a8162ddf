"""What kernels for decays by channel share: the pairs of tokens of a chunk, in blocks.

The scores of a chunk of C tokens,

    A_ij = sum_k q_ik k_jk exp2(g_{j+1,k} + ... + g_ik),

g the binary logarithms of decays, are no product of matrices, but a sum of a few, each
for the pairs of tokens in one block's two halves: there the exponent is the sum up to
the middle of the block and that from there on,

    A_ij = sum_k (q_ik exp2(E_ik)) (k_jk exp2(E_jk)),  j < middle <= i,

for blocks of 64, 32, ... tokens: no exponent is positive. In the last of these sizes
pairs of one half are multiplied as well, for which exp2(E_i) / exp2(E_j) is needed,
with sign. It is the largest in which no E is beyond -64, mostly the first, or else 8:
therefore no token's decay counts as less than 2^-28 (4e-9), and nothing overflows.
Where documents start, pairs are masked. A token's score with itself is a plain sum.

All exponents, E and the sums L from the chunk's start to each token and U from there to
its end, are sums over the tokens in between and nothing else: each is a matrix of zeros
and ones times g. So they are products on the matrix unit, of g in float16 (relative
error 2^-12: an exponent e is off by at most 2^-12 e, a share 2^e by 1e-4 of one).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxseq_kernels import hopper
from jaxseq_kernels.matrix_states import CHUNK

__all__ = [
  "BLOCK",
  "Documents",
  "Maths",
  "around",
  "earlier",
  "in_one_loop",
  "inside",
  "later",
  "load",
  "over_halves",
  "total_of",
  "wide",
]

BLOCK = 64  # Channels that are taken at a time.
COUNT = 4  # Of the sizes of blocks, at most.
LEAST = 4  # Half of the smallest.
LOWEST = -28.0  # LEAST times as much, and a factor of 2^16, are in a float's range.
LIMIT = 64.0  # Of E in the last; what is little is still in a float's range.
# Float16 has 11 bits from 2^-14 to 2^16. What a token forgets begins at 1e-7.
UNIT = 1024.0


class Half(NamedTuple):
  """Of blocks of tokens, in which pairs are multiplied.

  Attributes:
    size: Tokens.
    last: Whether no smaller follows; then tokens of one half are multiplied too. If
      not an array, what follows from it is decided before the program runs.
  """

  size: jax.Array | int
  last: jax.Array | bool

  def choose(self, x, y):
    """x in the last, else y; both are numbers, or rows' numbers."""
    if isinstance(self.last, bool):
      return x if self.last else y
    return jnp.where(jnp.broadcast_to(self.last, jnp.shape(x)), x, y)

  def flipped(self, x):
    """With the other sign in the last."""
    if isinstance(self.last, bool):
      return -x if self.last else x
    return x * jnp.where(self.last, -1.0, 1.0)


def over_halves(sizes, step, carry):
  """Of carry = step(half, carry), with all halves of blocks: a loop, and the last.

  Instructions that are executed once come slowly from memory: a program that is written
  out takes several times as long.
  """
  larger = lambda n, carry: step(Half(_shifted(n), False), carry)
  carry = jax.lax.fori_loop(0, sizes - 1, larger, carry)
  return step(Half(_shifted(sizes - 1), True), carry)


def in_one_loop(sizes, step, carry):
  """As `over_halves`, with fewer instructions, of which more are executed."""
  each = lambda n, carry: step(Half(_shifted(n), n == sizes - 1), carry)
  return jax.lax.fori_loop(0, sizes, each, carry)


def _shifted(n):
  return jax.lax.shift_right_logical(LEAST << (COUNT - 1), n)


class Maths:
  """Of blocks of 64 tokens and 64 channels."""

  def __init__(self, product, zero_s):
    self.product, self.zero_s = product, zero_s
    zero_s[...] = plgpu.layout_cast(jnp.zeros((CHUNK,), jnp.int32), hopper.COLS)
    plgpu.commit_smem()

  @property
  def rows(self):
    """Their indices; made again for each use.

    Were they the same, the compiler would share all that comes of them: masks and
    matrices of zeros and ones that fill the registers.
    """
    i = plgpu.broadcasted_iota(jnp.int32, (CHUNK,), 0, layout=hopper.ROWS)
    return i + self.zero_s[0]

  def diagonal(self, x):
    """x where row and column are the same, elsewhere zero."""
    i = self.rows
    return inside((i, i + 1), x)

  def gates(self, g_s):
    """Binary logarithms, limited, in units that float16 has."""
    g = jnp.maximum(load(g_s) * (UNIT * math.log2(math.e)), UNIT * LOWEST)
    return g.astype(jnp.float16)

  def sizes(self, gates_s):
    """How many sizes of blocks are taken: to the first with no E beyond the limit."""

    def next_size(carry):
      n, _ = carry
      return n + 1, hopper.least(self.exponents(Half(_shifted(n), False), gates_s))

    beyond = lambda carry: (carry[1] < -LIMIT) & (carry[0] < COUNT - 1)
    n, lowest = jax.lax.while_loop(beyond, next_size, (0, -jnp.inf))
    return n + (lowest < -LIMIT).astype(jnp.int32)

  def sums(self, stretch, gates_s, sign=None):
    """Of the gates of a stretch of tokens for each row, [CHUNK, BLOCK]."""
    one = jnp.float16(1 / UNIT)
    if sign is not None:
      one = hopper.along_rows((sign / UNIT).astype(jnp.float16), CHUNK)
    return self.product(inside(stretch, one), gates_s)

  def to_gates(self, dg, y, stretch, staged_s, sign=None, parts=2):
    """dg and what y, the gradient of `sums`, adds to it: from a stretch for each gate.

    In so many parts of 8 bits: what is lost of y to rounding is the next. Where y
    differs in sign, all the more of its sums would be lost.
    """
    one = jnp.bfloat16(1)
    if sign is not None:
      one = hopper.along_rows(sign.astype(jnp.bfloat16), CHUNK)

    def add(_, carry):
      dg, y = carry
      staged_s[...] = y.astype(jnp.bfloat16)
      plgpu.commit_smem()
      return self.product(inside(stretch, one), staged_s, dg), y - hopper.rounded(y)

    return jax.lax.fori_loop(0, parts, add, (dg, y))[0]

  def outward(self, gates_s, later: bool):
    """L, from the chunk's start to each token, or U, from there to the end."""
    i = self.rows
    return self.sums((i + 1, CHUNK) if later else (0, i + 1), gates_s)

  def exponents(self, half, gates_s):
    """E, which in the last blocks keys need with the other sign."""
    stretch, sign = between(self.rows, half)
    return self.sums(stretch, gates_s, sign)

  def shares(self, half, gates_s):
    """exp2(E) for queries and keys."""
    E = self.exponents(half, gates_s)
    X = jnp.exp2(E)
    return X, X if half.last is False else jnp.exp2(half.flipped(E))

  def scores(self, A, q_s, k_s, gates_s, work_s):
    """A plus that of BLOCK channels, where j < i."""

    def add(half, A):
      rows, cols = self.shares(half, gates_s)
      work_s[...] = (wide(k_s) * cols).astype(jnp.bfloat16)
      plgpu.commit_smem()
      here = self.product((wide(q_s) * rows).astype(jnp.bfloat16), work_s.T)
      return A + inside(earlier(self.rows, half), here)

    return over_halves(self.sizes(gates_s), add, A)


class Documents:
  """What the documents of a chunk let through. Loaded at each use, to hold little."""

  def __init__(self, ref, reverse):
    self.ref, self.reverse = ref, reverse

  def read(self):
    """Numbers by row, 1 where the state before is read."""
    return self._at(self.reverse)

  def write(self):
    """Numbers by row, 1 where the state after sees the token."""
    return self._at(not self.reverse)

  def same(self):
    """Tokens of rows and columns are of one document."""
    rows = hopper.along_rows(load(self.ref.at[0], hopper.ROWS), CHUNK)
    return rows == hopper.along_cols(load(self.ref.at[1], hopper.COLS), CHUNK)

  def none(self):
    """The binary logarithm of what is kept of the state: 0 or very little."""
    return jnp.where(self.ref[0, CHUNK - 1] > 0, -1e4, 0.0)

  def _at(self, end):
    """Where no document starts between a token and the chunk's start, or its end."""
    number = self.ref[0, CHUNK - 1] if end else 0.0
    return _ones(load(self.ref.at[0], hopper.ROWS) == number)


def inside(stretch, x):
  """x where a column is in its row's stretch [first, end), elsewhere zero."""
  first, end = (
    hopper.along_rows(y, CHUNK) if isinstance(y, jax.Array) else y for y in stretch
  )
  j = hopper.iota((CHUNK, CHUNK), 1)
  zero = jnp.zeros((), x.dtype)
  if isinstance(first, int):
    return jnp.where(j < end, x, zero)
  if isinstance(end, int):
    return jnp.where(j >= first, x, zero)
  size = (end - first).astype(jnp.uint32)
  return jnp.where((j - first).astype(jnp.uint32) < size, x, zero)


def _block(i, half):
  """Of a token's block the start and middle, and whether the token is not before it."""
  start = i & -2 * half.size
  return start, start + half.size, (i & half.size) == half.size


def between(i, half):
  """The tokens from the block's middle to i, or from i to there, and signs.

  The sign is -1 in the first half of a last block, else 1; None if no block is a last.
  """
  _, middle, second = _block(i, half)
  first, end = jnp.where(second, middle, i + 1), jnp.where(second, i + 1, middle)
  return (first, end), _sign(second, half)


def around(t, half):
  """The tokens i with t between i and the middle of the block, and signs, as before."""
  start, _, second = _block(t, half)
  first = jnp.where(second, t, start)
  end = jnp.where(second, start + 2 * half.size, t)
  return (first, end), _sign(second, half)


def _sign(second, half):
  if half.last is False:
    return None
  return jnp.where(second, 1.0, half.flipped(1.0))


def earlier(i, half):
  """The first half of the block, for i in the second; in the last all before i."""
  start, middle, second = _block(i, half)
  return start, half.choose(i, jnp.where(second, middle, start))


def later(j, half):
  """The second half of the block, for j in the first; in the last all after j."""
  start, middle, second = _block(j, half)
  end = start + 2 * half.size
  return half.choose(j + 1, jnp.where(second, end, middle)), end


def total_of(gates):
  """The sum of a chunk's gates by channel, `COLS`."""
  return hopper.sum_of_cols(gates.astype(jnp.float32)) * (1 / UNIT)


def _ones(which):
  return jnp.where(which, 1.0, 0.0)


def load(ref, layout=hopper.TILE):
  """To registers, from global memory too."""
  return plgpu.load(ref, layout=layout, optimized=False)


def wide(ref):
  """`load` in float32."""
  return load(ref).astype(jnp.float32)
