"""TPU forward and backward. Grid [B / R, D / W, T / TB], time innermost.

A program walks over the tokens of a block of R rows and W channels. The channels of a
token are independent, and 1024 of them are eight vector registers: enough to hide how
long a product and a sum take. Where channels are fewer, rows of the batch take their
place. The state stays in VMEM, in the block of the last state, which is the same block
at all times; so does the sum of the gradient of an `a` that is the same at all tokens.

The backward pass walks back. The state before a block's first token comes from the last
rows of the block before, or is the initial state.

Each array is read once and written once: 12 bytes for each element and part forward, 20
backward; 8 and 12 where `a` is the same at all tokens. T need not be a multiple of TB,
nor D of W: what lies beyond the end is not walked over, and channels do not mix.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

__all__ = ["backward", "forward"]

LANES = 128
ROWS = 8  # Of a tile in memory.
TOKENS = 256  # Backward five blocks of 256 x 1024 float32, twice buffered: 10 MB.
WIDTH = 1024  # Channels times rows times parts, at most.


def forward(a, x, state, *, interpret=False):
  """h_t = a_t h_{t-1} + x_t, of one part if real and of two if complex.

  Args:
    a: Parts [B, T, D] float32, or [1, 1, D] where it is the same at all tokens.
    x: Parts [B, T, D]; T a multiple of 8.
    state: Parts [B, 1, D].
    interpret: See `dispatch.fused`.

  Returns:
    The parts of h [B, T, D] and those of the last state [B, 1, D].
  """
  blocks = _Blocks(x, reverse=False)
  factor = blocks.factor if _same(a) else blocks.tokens
  return _call(
    _forward_block,
    "diagonal_recurrence_forward",
    blocks,
    [(a, factor), (x, blocks.tokens), (state, blocks.row)],
    [(x, blocks.tokens), (state, blocks.row)],
    interpret,
  )


def backward(a, h, state, dh, dlast, *, interpret=False):
  """The gradients of a, x and state, from those of h and of the last state.

  That of an `a` [1, 1, D] is [B, 1, D]. Arguments are as those of `forward`.
  """
  blocks = _Blocks(h, reverse=True)
  tokens, row = blocks.tokens, blocks.row
  return _call(
    _backward_block,
    "diagonal_recurrence_backward",
    blocks,
    [
      (a, blocks.factor if _same(a) else tokens),
      *((h, tokens), (h, blocks.before), (state, row)),
      *((dh, tokens), (dlast, row)),
    ],
    [(state, row) if _same(a) else (h, tokens), (h, tokens), (state, row)],
    interpret,
  )


def _same(a):
  return a[0].shape[1] == 1


class _Blocks:
  """How arrays [B, T, D] are cut.

  Attributes:
    parts: 1 for real arrays, 2 for complex ones.
    grid: Rows, channels, time.
    tokens: The block of an array with all tokens.
    before: The tile of rows before that block; the first tile for the first block.
    row: The block of a state [B, 1, D].
    factor: The block of an array [1, 1, D].
  """

  def __init__(self, x, *, reverse):
    B, T, D = x[0].shape
    self.parts = len(x)
    most = WIDTH // len(x)
    width = LANES * pl.cdiv(pl.cdiv(D, pl.cdiv(D, most)), LANES)
    rows = next(r for r in range(most // width, 0, -1) if B % r == 0)
    self.length, self.size = T, min(TOKENS, T)
    self.steps = pl.cdiv(T, self.size)
    self.reverse = reverse
    self.grid = (B // rows, pl.cdiv(D, width), self.steps)
    tiles = self.size // ROWS
    place, above = self.place, lambda t: jnp.maximum(self.place(t) * tiles - 1, 0)
    self.tokens = pl.BlockSpec(
      (rows, self.size, width), lambda b, d, t: (b, place(t), d)
    )
    self.before = pl.BlockSpec((rows, ROWS, width), lambda b, d, t: (b, above(t), d))
    self.row = pl.BlockSpec((rows, 1, width), lambda b, d, t: (b, 0, d))
    self.factor = pl.BlockSpec((1, 1, width), lambda b, d, t: (0, 0, d))

  def place(self, step):
    """Of a step of the walk, its block in time."""
    return self.steps - 1 - step if self.reverse else step

  def walk(self, token, carry):
    """Calls `carry = token(row, carry)` for each token of this step's block."""
    left = self.length - self.place(pl.program_id(2)) * self.size
    tiles = jnp.minimum(left, self.size) // ROWS
    order = range(ROWS - 1, -1, -1) if self.reverse else range(ROWS)

    def tile(i, carry):
      i = tiles - 1 - i if self.reverse else i
      for row in order:
        carry = token(i * ROWS + row, carry)
      return carry

    return jax.lax.fori_loop(0, tiles, tile, carry)


def _call(body, name, blocks, args, out, interpret):
  """Runs `body` on each block.

  Args:
    body: Called with the blocks and, for each array, the references to its parts.
    name: Of the kernel.
    blocks: See `_Blocks`.
    args: For each array, its parts and their block.
    out: For each output, arrays of its shape and their block.
    interpret: See `dispatch.fused`.

  Returns:
    For each output, its parts.
  """
  n = blocks.parts
  by_array = lambda refs: tuple(tuple(refs[i : i + n]) for i in range(0, len(refs), n))
  results = pl.pallas_call(
    lambda *refs: body(blocks, *by_array(refs)),
    grid=blocks.grid,
    name=name,
    in_specs=[spec for _, spec in args for _ in range(n)],
    out_specs=[spec for _, spec in out for _ in range(n)],
    out_shape=[jax.ShapeDtypeStruct(y.shape, y.dtype) for x, _ in out for y in x],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary")
    ),
    interpret=interpret,
  )(*(y for x, _ in args for y in x))
  return by_array(results)


def _forward_block(blocks, a, x, first, h, state):
  @pl.when(pl.program_id(2) == 0)
  def _():
    _write(state, 0, _read(first, 0))

  same = _read(a, 0)  # If it is.

  def token(row, before):
    factor = same if _same(a) else _read(a, row)
    now = _sum(_product(factor, before), _read(x, row))
    _write(h, row, now)
    return now

  _write(state, 0, blocks.walk(token, _read(state, 0)))


def _backward_block(blocks, a, h, above, first, dh, dlast, da, dx, dstate):
  """`dstate` holds what comes from the token after: the product of its a and l."""

  @pl.when(pl.program_id(2) == 0)
  def _():
    _write(dstate, 0, _read(dlast, 0))
    if _same(a):
      _write(da, 0, [jnp.zeros_like(y) for y in _read(da, 0)])

  begins = blocks.place(pl.program_id(2)) == 0
  outside = _where(begins, _read(first, 0), _read(above, ROWS - 1))
  same = _read(a, 0)

  def token(row, carry):
    after, total = carry
    before = _read(h, jnp.maximum(row - 1, 0))
    before = _where(row == 0, outside, before)
    l = _sum(_read(dh, row), after)
    _write(dx, row, l)
    product = _product(_conjugate(before), l)
    if _same(a):
      return _product(_conjugate(same), l), _sum(total, product)
    _write(da, row, product)
    return _product(_conjugate(_read(a, row)), l), total

  total = _read(da, 0) if _same(a) else ()
  after, total = blocks.walk(token, (_read(dstate, 0), total))
  _write(dstate, 0, after)
  if _same(a):
    _write(da, 0, total)


# A number is a tuple of its parts, each an array.


def _read(refs, row):
  return tuple(ref[:, pl.ds(row, 1), :] for ref in refs)


def _write(refs, row, x):
  for ref, y in zip(refs, x):
    ref[:, pl.ds(row, 1), :] = y


def _sum(x, y):
  return tuple(p + q for p, q in zip(x, y))


def _product(x, y):
  if len(x) == 1:
    return (x[0] * y[0],)
  return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _conjugate(x):
  return x[0], *(-y for y in x[1:])


def _where(condition, x, y):
  return tuple(jnp.where(condition, p, q) for p, q in zip(x, y))
