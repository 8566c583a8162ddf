"""TPU forward and backward. Grid [B, T / TB, D / W], channels innermost.

A program walks over the TB tokens of a block of W channels with the state [N, W] in
vector registers: states along sublanes, channels along lanes. A row of dt is spread
over the sublanes as it is read. The columns of B and C, which come with time along the
lanes, are spread over the lanes once for all channels, in VMEM. There too stay, from
block to block, the states of all channels.

Forward writes the outputs and the state before each block. Backward makes a block's
states again from that, in VMEM, and walks back. What is summed over channels, for B and
C, stays in VMEM until the last of them; what is summed over time, for A, to the end.

Bytes for each element of x, in bfloat16: 10 forward (x, dt, y) and 16 backward (x, dt,
dy, dx, ddt), besides the states, N / TB of them an element. Both take longer than that:
they are bound by the vector unit.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

__all__ = ["backward", "forward"]

LANES = 128
TOKENS = 128  # Of a block: the lanes of B and C.
ROWS = 8  # Of a tile: the tokens whose outputs are made together.
GROUP = 32  # Columns spread or summed at a time: enough to hide how long one takes.
STATE = 8192  # Numbers, at most, in the state of a block: eight registers.
LOG2E = 1.4426950408889634


def forward(x, dt, A, B, C, state, starts, *, interpret=False):
  """y_t = sum_n C_t h_t, where h_t = exp(dt_t A) h_{t-1} + B_t dt_t x_t.

  Args:
    x: [B, T, D] float32 or bfloat16; T a multiple of 8, D of 128.
    dt: [B, T, D] float32.
    A: [N, D] float32; N a multiple of 8.
    B: [B, N, T'] float32; T' is T up to a multiple of `TOKENS`.
    C: Likewise.
    state: [B, N, D] float32, before the first token.
    starts: [B, 1, T'] int32, not 0 where the state is dropped first; or None.
    interpret: See `dispatch.fused`.

  Returns:
    y [B, T, D] and the last state [B, N, D], float32; and the state before each block,
    for `backward`.
  """
  cut = _Blocks(x, A, reverse=False)
  batch, steps, parts = cut.grid
  state = cut.split(state)
  y, last, before = _call(
    _forward_block,
    "selective_scan_forward",
    cut,
    [
      *((starts, cut.starts), (x, cut.tokens), (dt, cut.tokens)),
      *((cut.split(LOG2E * A), cut.rates), (B, cut.columns), (C, cut.columns)),
      (state, cut.states),
    ],
    [
      (x.shape, jnp.float32, cut.tokens),
      (state.shape, jnp.float32, cut.states),
      ((batch, steps, *state.shape[1:]), jnp.float32, cut.before),
    ],
    [cut.inputs, cut.of_tokens],
    interpret,
  )
  return y, cut.join(last), before


def backward(x, dt, A, B, C, before, starts, dy, dlast, *, interpret=False):
  """The gradients of x, dt, A, B, C and state, from those of y and the last state.

  Args are as those of `forward`, and `before` as its last result. The gradient of A is
  that of each row, [B, N, D].
  """
  cut = _Blocks(x, A, reverse=True)
  dlast = cut.split(dlast)
  dx, ddt, dA, dB, dC, dstate = _call(
    _backward_block,
    "selective_scan_backward",
    cut,
    [
      *((starts, cut.starts), (x, cut.tokens), (dt, cut.tokens)),
      *((cut.split(LOG2E * A), cut.rates), (B, cut.columns), (C, cut.columns)),
      *((before, cut.before), (dy, cut.tokens), (dlast, cut.states)),
    ],
    [
      (x.shape, x.dtype, cut.tokens),
      (x.shape, jnp.float32, cut.tokens),
      (dlast.shape, jnp.float32, cut.states),
      (B.shape, jnp.float32, cut.columns),
      (B.shape, jnp.float32, cut.columns),
      (dlast.shape, jnp.float32, cut.states),
    ],
    [cut.inputs, cut.inputs, cut.history, cut.of_tokens, cut.of_tokens],
    interpret,
  )
  return dx, ddt, cut.join(dA), dB, dC, cut.join(dstate)


class _Blocks:
  """How the arrays are cut.

  Attributes:
    grid: Rows, time, channels.
    tokens: The block of an array [B, T, D].
    rates: Of log2(e) A, split.
    columns: Of B or C.
    starts: Of the starts, as scalars.
    states: Of split states of all channels, the same at all times.
    before: Of the split states before the blocks.
    inputs: Scratch for a float32 array of a block's tokens.
    of_tokens: Scratch for [N, 128], two for each of them.
    history: Scratch for the states before and after each of them.
  """

  def __init__(self, x, A, *, reverse):
    (rows, T, D), N = x.shape, len(A)
    widths = (w for w in (512, 256, 128) if D % w == 0 and N * w <= STATE)
    self.width = width = next(widths, LANES)
    self.length, self.size, self.reverse = T, min(TOKENS, T), reverse
    self.steps, self.parts = pl.cdiv(T, TOKENS), D // width
    self.grid = (rows, self.steps, self.parts)
    at, spec = self.place, pl.BlockSpec
    self.tokens = spec((None, self.size, width), lambda b, t, d: (b, at(t), d))
    self.rates = spec((None, N, width), lambda b, t, d: (d, 0, 0))
    self.columns = spec((None, N, TOKENS), lambda b, t, d: (b, 0, at(t)))
    self.starts = spec(
      (None, 1, TOKENS), lambda b, t, d: (b, 0, at(t)), memory_space=pltpu.SMEM
    )
    self.states = spec((None, self.parts, N, width), lambda b, t, d: (b, 0, 0, 0))
    self.before = spec(
      (None, None, None, N, width), lambda b, t, d: (b, at(t), d, 0, 0)
    )
    self.inputs = pltpu.VMEM((self.size, width), jnp.float32)
    self.of_tokens = pltpu.VMEM((2, TOKENS, N, LANES), jnp.float32)
    self.history = pltpu.VMEM((self.size + 1, N, width), jnp.float32)

  def split(self, x):
    """[..., N, D] -> [..., D / W, N, W]."""
    return x.reshape(*x.shape[:-1], self.parts, self.width).swapaxes(-3, -2)

  def join(self, x):
    """[..., D / W, N, W] -> [..., N, D]."""
    x = x.swapaxes(-3, -2)
    return x.reshape(*x.shape[:-2], -1)

  def place(self, step):
    """Of a step of the grid, its block in time."""
    return self.steps - 1 - step if self.reverse else step

  def walk(self, tile, carry, *, reverse=False):
    """Calls `carry = tile(first token, carry)` for each tile of this step's block."""
    left = self.length - self.place(pl.program_id(1)) * TOKENS
    tiles = jnp.minimum(left, self.size) // ROWS

    def body(i, carry):
      i = tiles - 1 - i if reverse else i
      return tile(pl.multiple_of(i * ROWS, ROWS), carry)

    return jax.lax.fori_loop(0, tiles, body, carry)


def _call(body, name, cut, args, out, scratch, interpret):
  """Runs `body` on each block; None among the arrays is passed on."""

  def program(*refs):
    refs = iter(refs)
    given = [None if x is None else next(refs) for x, _ in args]
    body(cut, *given, *refs)

  return pl.pallas_call(
    program,
    grid=cut.grid,
    name=name,
    in_specs=[spec for x, spec in args if x is not None],
    out_specs=[spec for *_, spec in out],
    out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in out],
    scratch_shapes=scratch,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary", "arbitrary")
    ),
    interpret=interpret,
  )(*(x for x, _ in args if x is not None))


def _forward_block(cut, starts, x, dt, A, B, C, first, y, states, before, u, columns):
  t, d = pl.program_id(1), pl.program_id(2)

  @pl.when(t == 0)
  def _():
    states[d] = first[d]

  @pl.when(d == 0)
  def _():
    _spread((B, C), columns)

  before[...] = states[d]
  u[...] = dt[...] * x[...].astype(jnp.float32)
  rates = A[...]

  def tile(token, h):
    rows = pl.ds(token, ROWS)
    read = []
    for i in range(ROWS):
      h = _step(h, rates, _row(dt, rows, i), starts, token + i)
      h += _wide(columns[0, token + i], h) * _row(u, rows, i)
      read.append(_wide(columns[1, token + i], h) * h)
    y[rows, :] = _sums_of_states(read)
    return h

  states[d] = cut.walk(tile, states[d])


def _backward_block(cut, starts, x, dt, A, B, C, before, dy, dlast, *out_and_scratch):
  """`dstates` holds what comes from the token after: the product of its a and l."""
  dx, ddt, dA, dB, dC, dstates, u, du, hs, columns, sums = out_and_scratch
  t, d = pl.program_id(1), pl.program_id(2)

  @pl.when(t == 0)
  def _():
    dstates[d] = dlast[d]
    dA[d] = jnp.zeros(dA.shape[1:], jnp.float32)

  @pl.when(d == 0)
  def _():
    _spread((B, C), columns)
    sums[...] = jnp.zeros_like(sums)

  u[...] = dt[...] * x[...].astype(jnp.float32)
  rates = A[...]
  hs[0] = before[...]

  def make(token, h):
    rows = pl.ds(token, ROWS)
    for i in range(ROWS):
      h = _step(h, rates, _row(dt, rows, i), starts, token + i)
      h += _wide(columns[0, token + i], h) * _row(u, rows, i)
      hs[token + i + 1] = h
    return h

  cut.walk(make, before[...])

  def tile(token, carry):
    after, dAs = carry
    rows = pl.ds(token, ROWS)
    written, faded = [], []
    for i in reversed(range(ROWS)):
      Bi, Ci = (_wide(columns[k, token + i], after) for k in range(2))
      dti, dyi = _row(dt, rows, i), _row(dy, rows, i)
      l = Ci * dyi + after
      sums[0, token + i] += _by_lane(_row(u, rows, i) * l)
      sums[1, token + i] += _by_lane(dyi * hs[token + i + 1])
      after = _step(l, rates, dti, starts, token + i)
      g = after * hs[token + i]
      dAs += dti * g
      written.append(Bi * l)
      faded.append(rates * g)
    du[rows, :] = _sums_of_states(written[::-1])
    ddt[rows, :] = _sums_of_states(faded[::-1])
    return after, dAs

  dstates[d], dA[d] = cut.walk(tile, (dstates[d], dA[d]), reverse=True)
  dx[...] = (dt[...] * du[...]).astype(dx.dtype)
  ddt[...] = ddt[...] / LOG2E + x[...].astype(jnp.float32) * du[...]

  @pl.when(d == cut.parts - 1)
  def _():
    _gather(sums, (dB, dC))


def _step(h, rates, dt, starts, token):
  """exp(dt A) h, from log2(e) A; or 0 where the state is dropped."""
  h = jnp.exp2(rates * dt) * h
  return h if starts is None else jnp.where(starts[0, token] != 0, 0.0, h)


def _row(ref, rows, i):
  return ref.at[rows][i : i + 1, :]


def _wide(column, like):
  """A column spread over 128 lanes, over the lanes of another array."""
  return jnp.tile(column, (1, like.shape[1] // LANES))


def _spread(blocks, columns):
  """The columns of blocks [N, TB], each over all lanes."""

  def some(i, _):
    for k, block in enumerate(blocks):
      # Turned so that the first of these columns is the first of all.
      turned = pltpu.roll(block[...], (TOKENS - i * GROUP) % TOKENS, 1)
      for j in range(GROUP):
        column = turned[:, j : j + 1]
        columns[k, i * GROUP + j] = jnp.broadcast_to(column, columns.shape[2:])

  jax.lax.fori_loop(0, TOKENS // GROUP, some, None)


def _gather(sums, blocks):
  """The sums over the lanes of `sums`, as the columns of blocks [N, TB]."""
  lanes = jax.lax.broadcasted_iota(jnp.int32, blocks[0].shape, 1)

  def some(i, totals):
    for j in range(GROUP):
      token = i * GROUP + j
      for k in range(len(blocks)):
        column = jnp.sum(sums[k, token], axis=1, keepdims=True)
        totals[k] = jnp.where(lanes == token, column, totals[k])
    return totals

  none = [jnp.zeros(x.shape, jnp.float32) for x in blocks]
  totals = jax.lax.fori_loop(0, TOKENS // GROUP, some, none)
  for block, total in zip(blocks, totals):
    block[...] = total


def _by_lane(x):
  """The sum of x [N, W] over its groups of lanes, [N, 128]."""
  return sum(x[:, i : i + LANES] for i in range(0, x.shape[1], LANES))


def _sums_of_states(xs):
  """The sums of eight arrays [N, W] over N, as the rows of one [8, W].

  Two arrays become one, whose rows belong to them in turn; so three times.
  """
  xs = [sum(x[i : i + ROWS] for i in range(0, len(x), ROWS)) for x in xs]
  rows = jax.lax.broadcasted_iota(jnp.int32, xs[0].shape, 0)
  for distance in (1, 2, 4):
    first = (rows & distance) == 0
    xs = [
      jnp.where(first, x, y) + pltpu.roll(jnp.where(first, y, x), distance, 0)
      for x, y in zip(xs[::2], xs[1::2])
    ]
  return xs[0]
