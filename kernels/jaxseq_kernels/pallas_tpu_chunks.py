"""TPU scans over chunks, by Mosaic TPU, for any rule whose state is a matrix.

A rule is a pure function of a chunk of C tokens of one head,

    chunk(S, q, k, v, *gates, documents, dot) -> o, S'

S being the state before it, written for the matrix unit. `scan` makes of it a kernel,
and of its derivative, by `jax.vjp` inside the kernel, another: so the gradient of a
rule needs no code.

Grid [B, H / heads, N], a program for a chunk of a few heads, whose work the compiler
interleaves; chunks of a sequence follow each other, their state in VMEM. Forward each
input is read once and each output written once, and for the gradients the states before
the chunks; backwards, from the last chunk to the first, they and the inputs are read,
the chunk is made again, and the gradient of the state stays in VMEM.

Gates by token come as rows [1, C]. What sums of them need is masked and added up as
columns [C, 1], and between tokens multiplied by matrices of zeros and ones, so that
nothing is the difference of large sums.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxseq_kernels.matrix_states import pad, up

__all__ = [
  "column",
  "fused",
  "inverse",
  "masked_exp",
  "scores",
  "shares_by_channel",
  "shares_by_token",
  "stretches",
  "with_own",
]

TOKENS = 128  # C: then all products are of whole tiles of the matrix unit.
LANES = 128  # K and V are multiples in VMEM.
SMALLEST = 4  # Tokens: half of the blocks in which quotients of decays are taken.
LOWEST = -104.0  # Of decays by token: e^-104 is nothing in float32.
LEAST = -19.0  # Of decays by channel: e^(4 x 19) is in a float's range.
HEADS, WIDTH = 8, 2048  # Of a program at most, and bytes of all their keys or values.
VMEM = 48 << 20  # Bytes a program may use, of 64 to 128 MiB.

f32, bf16 = jnp.float32, jnp.bfloat16
DIMENSIONS = {"nn": ((1,), (0,)), "nt": ((1,), (1,)), "tn": ((0,), (0,))}


def fused(chunk, vectors, scalars, packed, *, scale, interpret):
  """Outputs and the last state of a rule, differentiable in all but the documents.

  Args:
    chunk: The rule.
    vectors: q, k, v and gates by channel, [B, T, H, K] (v: V), all of one dtype or
      gates in float32.
    scalars: Gates by token, [B, T, H].
    packed: The state [B, H, K, V] before the first token, or None for zeros; starts
      [B, T] bool, where it is dropped first, or None for nowhere; and valid [B, T]
      bool, of which other tokens read 0 and write nothing, or None for all.
    scale: Of the outputs, a number.
    interpret: As in `pallas_call`.

  Returns:
    o [B, T, H, V] in v's dtype and the last state, [B, H, K, V] in float32.
  """
  (_, k, v, *_), (state, starts, valid) = vectors, packed
  B, T, H, K = k.shape
  V = v.shape[-1]
  N, length = -(-T // TOKENS), up(T, TOKENS)
  if valid is not None:
    mask = lambda x: jnp.where(valid.reshape(B, T, *[1] * (x.ndim - 2)), x, 0)
    vectors, scalars = ([mask(x) for x in xs] for xs in (vectors, scalars))
  vectors = [
    pad(x, B, length, H, up(x.shape[-1], LANES)).reshape(B, length, -1) for x in vectors
  ]
  rows = [pad(x.astype(f32), B, length, H).reshape(B, N, TOKENS, H) for x in scalars]
  rows = [x.transpose(0, 3, 1, 2)[:, :, :, None] for x in rows]  # [B, H, N, 1, C]
  numbers = None
  if starts is not None:
    starts = pad(starts, B, length).reshape(B, N, 1, TOKENS)
    numbers = jnp.cumsum(starts, axis=-1, dtype=f32)
  if state is None:
    state = jnp.zeros((B, H, K, V), f32)
  state = pad(state.astype(f32), B, H, up(K, LANES), up(V, LANES))
  o, last = scan(vectors, rows, state, numbers, chunk, scale, interpret)
  o = o.reshape(B, length, H, -1)[:, :T, :, :V]
  if valid is not None:
    o = mask(o)
  return o, last[:, :, :K, :V]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def scan(vectors, rows, state, numbers, chunk, scale, interpret):
  """The kernel.

  Args:
    vectors: [B, N C, H K'] each.
    rows: [B, H, N, 1, C] float32 each.
    state: [B, H, K', V'] float32.
    numbers: [B, N, 1, C] float32, how many documents have started in the chunk up to
      and with a token, or None.
    chunk: As scale and interpret, of `fused`.
    scale: ...
    interpret: ...
  """
  return _forward(vectors, rows, state, numbers, chunk, scale, interpret, False)


def _kept(vectors, rows, state, numbers, chunk, scale, interpret):
  o, last, before = _forward(
    vectors, rows, state, numbers, chunk, scale, interpret, True
  )
  return (o, last), (vectors, rows, before, numbers)


class Sizes(NamedTuple):
  """Of the arrays of a scan, and what its programs take of them."""

  B: int
  H: int
  N: int
  K: int
  V: int
  heads: int

  @classmethod
  def of(cls, vectors, state):
    B, H, K, V = state.shape
    width = max(K, V) * vectors[2].dtype.itemsize
    fits = lambda n: H % n == 0 and n * width <= WIDTH
    heads = next(n for n in range(HEADS, 0, -1) if n == 1 or fits(n))
    return cls(B, H, vectors[0].shape[1] // TOKENS, K, V, heads)

  def specs(self, reverse=False):
    """Blocks of vectors, rows, the state, states of chunks, and documents."""
    at = (lambda n: self.N - 1 - n) if reverse else (lambda n: n)
    vector = lambda width: pl.BlockSpec(
      (None, TOKENS, self.heads * width), lambda b, h, n: (b, at(n), h)
    )
    by_chunk = lambda *shape: pl.BlockSpec(
      (None, self.heads, None, *shape), lambda b, h, n: (b, h, at(n), 0, 0)
    )
    state = pl.BlockSpec(
      (None, self.heads, self.K, self.V), lambda b, h, n: (b, h, 0, 0)
    )
    documents = pl.BlockSpec((None, None, 1, TOKENS), lambda b, h, n: (b, at(n), 0, 0))
    return vector, by_chunk(1, TOKENS), state, by_chunk(self.K, self.V), documents

  def call(self, program, name, in_specs, out_specs, out_shape, interpret):
    return pl.pallas_call(
      program,
      grid=(self.B, self.H // self.heads, self.N),
      name=name,
      in_specs=in_specs,
      out_specs=out_specs,
      out_shape=out_shape,
      scratch_shapes=[pltpu.VMEM((self.heads, self.K, self.V), f32)],
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary"),
        vmem_limit_bytes=VMEM,
      ),
      interpret=interpret,
    )


def _rule(chunk, dot, documents):
  """The rule of all heads, as a function of all that it is differentiated by.

  Each of its steps for all heads: what one waits for gives the others time.
  """
  return jax.vmap(
    lambda S, xs, rows: chunk(S, *xs, *rows, documents=documents, dot=dot)
  )


def _by_head(refs, heads):
  """Blocks [C, heads K] as [heads, C, K]."""
  width = lambda ref: ref.shape[1] // heads
  part = lambda ref, h: ref[:, h * width(ref) : (h + 1) * width(ref)]
  return [jnp.stack([part(ref, h) for h in range(heads)]) for ref in refs]


def _put(refs, arrays):
  """The inverse."""
  for ref, x in zip(refs, arrays, strict=True):
    for h, part in enumerate(x):
      width = part.shape[1]
      ref[:, h * width : (h + 1) * width] = part.astype(ref.dtype)


def _forward(vectors, rows, state, numbers, chunk, scale, interpret, keep):
  sizes = Sizes.of(vectors, state)
  dtype = vectors[2].dtype
  dot = Dot(dtype != bf16, bool(interpret))

  def program(*refs):
    refs = list(refs)
    take = lambda count: [refs.pop(0) for _ in range(count)]
    vector_refs, row_refs, (state_ref,) = take(len(vectors)), take(len(rows)), take(1)
    numbers_ref = refs.pop(0) if numbers is not None else None
    o_ref, last_ref = take(2)
    before_ref = refs.pop(0) if keep else None
    (S_ref,) = refs
    n = pl.program_id(2)

    @pl.when(n == 0)
    def _():
      S_ref[...] = state_ref[...]

    documents = Documents(None if numbers is None else numbers_ref[...])
    S = S_ref[...]
    if keep:
      before_ref[...] = S.astype(dtype)
    rule = _rule(chunk, dot, documents)
    o, S_ref[...] = rule(
      S, _by_head(vector_refs, sizes.heads), [r[...] for r in row_refs]
    )
    _put([o_ref], [scale * o])

    @pl.when(n == sizes.N - 1)
    def _():
      last_ref[...] = S_ref[...]

  vector, row, whole, by_chunk, documents = sizes.specs()
  widths = [x.shape[-1] // sizes.H for x in vectors]
  in_specs = [*map(vector, widths), *[row] * len(rows), whole]
  args = [*vectors, *rows, state]
  if numbers is not None:
    in_specs, args = [*in_specs, documents], [*args, numbers]
  out_specs, out_shape = (
    [vector(sizes.V), whole],
    [
      jax.ShapeDtypeStruct(vectors[2].shape, dtype),
      jax.ShapeDtypeStruct(state.shape, f32),
    ],
  )
  if keep:
    shape = (sizes.B, sizes.H, sizes.N, sizes.K, sizes.V)
    out_specs, out_shape = (
      [*out_specs, by_chunk],
      [*out_shape, jax.ShapeDtypeStruct(shape, dtype)],
    )
  name = f"{chunk.__module__.split('.')[-2]}_forward"
  return sizes.call(program, name, in_specs, out_specs, out_shape, interpret)(*args)


def _backward(chunk, scale, interpret, kept, gradients):
  vectors, rows, before, numbers = kept
  do, dlast = gradients
  sizes = Sizes.of(vectors, dlast)
  dot = Dot(vectors[2].dtype != bf16, bool(interpret))

  def program(*refs):
    refs = list(refs)
    take = lambda count: [refs.pop(0) for _ in range(count)]
    vector_refs, row_refs = take(len(vectors)), take(len(rows))
    do_ref, before_ref, dlast_ref = take(3)
    numbers_ref = refs.pop(0) if numbers is not None else None
    dvector_refs, drow_refs, (dfirst_ref, R_ref) = (
      take(len(vectors)),
      take(len(rows)),
      take(2),
    )
    n = pl.program_id(2)

    @pl.when(n == 0)
    def _():
      R_ref[...] = dlast_ref[...]

    documents = Documents(None if numbers is None else numbers_ref[...])
    given = (
      before_ref[...].astype(f32),
      _by_head(vector_refs, sizes.heads),
      [r[...] for r in row_refs],
    )
    _, pullback = jax.vjp(_rule(chunk, dot, documents), *given)
    (do,) = _by_head([do_ref], sizes.heads)
    R_ref[...], dvectors, drows = pullback((scale * do.astype(f32), R_ref[...]))
    _put(dvector_refs, dvectors)
    for ref, x in zip(drow_refs, drows):
      ref[...] = x

    @pl.when(n == sizes.N - 1)
    def _():
      dfirst_ref[...] = R_ref[...]

  vector, row, whole, by_chunk, documents = sizes.specs(reverse=True)
  widths = [x.shape[-1] // sizes.H for x in vectors]
  of_vectors, of_rows = list(map(vector, widths)), [row] * len(rows)
  in_specs = [*of_vectors, *of_rows, vector(sizes.V), by_chunk, whole]
  args = [*vectors, *rows, do, before, dlast]
  if numbers is not None:
    in_specs, args = [*in_specs, documents], [*args, numbers]
  like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  out_shape = [*map(like, vectors), *map(like, rows), like(dlast)]
  name = f"{chunk.__module__.split('.')[-2]}_backward"
  made = sizes.call(
    program, name, in_specs, [*of_vectors, *of_rows, whole], out_shape, interpret
  )(*args)
  dnumbers = None if numbers is None else jnp.zeros_like(numbers)
  V, R = len(vectors), len(rows)
  return list(made[:V]), list(made[V : V + R]), made[-1], dnumbers


scan.defvjp(_kept, _backward)


class Dot(NamedTuple):
  """Products with float32 sums, differentiable: "nn" is a b, "nt" a b^T, "tn" a^T b.

  Attributes:
    exact: To float32; else operands are rounded to bfloat16.
    interpreted: On a CPU, which has no products of bfloat16 with float32 sums.
  """

  exact: bool
  interpreted: bool

  def __call__(self, how, a, b):
    return _product(self, 1, how, a, b)

  def fine(self, how, a, b):
    """Of operands of twice the bits of bfloat16, where errors would grow."""
    return _product(self, 2, how, a, b)

  def finest(self, how, a, b):
    """Of three times the bits."""
    return _product(self, 3, how, a, b)

  def pairs(self, how, a, b):
    """Of rounded operands; their gradients are of twice the bits of its own."""
    return _pairs(self, how, a, b)

  def sums(self, signs, x):
    """`signs` x, of -1, 0 and 1; x to 16 bits, or exact."""
    return _sums(self, signs, x)

  def rounded(self, x):
    """As products round it."""
    return x if self.exact else x.astype(bf16).astype(f32)

  def multiply(self, parts, how, a, b):
    """a b, both as sums of bfloat16 parts; products of the least are left out."""
    if self.exact:
      a, b = a.astype(f32), b.astype(f32)
      return _multiply(how, a, b, jax.lax.Precision.HIGHEST)
    a, b = self._parts(a, parts), self._parts(b, parts)
    pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if i + j < parts]
    return sum(_multiply(how, a[i], b[j]) for i, j in reversed(pairs))

  def multiply_signs(self, how, signs, x):
    x = self._parts(x, 3 if self.exact else 2)[::-1]
    (signs,) = self._parts(signs, 1)
    return sum(_multiply(how, signs, part) for part in x)

  def _parts(self, x, count):
    """In bfloat16, the first few that add up to x, which may be the only one."""
    out = []
    for _ in range(1 if x.dtype == bf16 else count):
      part = x.astype(bf16)
      x = x - part.astype(f32)
      out.append(part.astype(f32) if self.interpreted else part)
    return out


def _multiply(how, a, b, precision=None):
  return jax.lax.dot_general(
    a,
    b,
    (DIMENSIONS[how], ((), ())),
    precision=precision,
    preferred_element_type=f32,
  )


# Of "how", the products that make the gradients of a and b, c being that of the result.
TRANSPOSED = {
  "nn": lambda dot, a, b, c: (dot("nt", c, b), dot("tn", a, c)),
  "nt": lambda dot, a, b, c: (dot("nn", c, b), dot("tn", c, a)),
  "tn": lambda dot, a, b, c: (dot("nt", b, c), dot("nn", a, c)),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _product(dot, parts, how, a, b):
  return dot.multiply(parts, how, a, b)


def _product_backward(dot, parts, how, kept, c):
  a, b = kept
  da, db = TRANSPOSED[how](functools.partial(dot.multiply, parts), a, b, c)
  return da.astype(a.dtype), db.astype(b.dtype)


_product.defvjp(lambda *args: (_product(*args), args[3:]), _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pairs(dot, how, a, b):
  return dot.multiply(1, how, a, b)


def _pairs_backward(dot, how, kept, c):
  a, b = (x if dot.exact else x.astype(bf16) for x in kept)
  return TRANSPOSED[how](functools.partial(dot.multiply, 2), a, b, c)


_pairs.defvjp(lambda *args: (_pairs(*args), args[2:]), _pairs_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(dot, signs, x):
  return dot.multiply_signs("nn", signs, x)


def _sums_backward(dot, signs, d):
  return jnp.zeros_like(signs), dot.multiply_signs("tn", signs, d)


_sums.defvjp(lambda dot, signs, x: (_sums(dot, signs, x), signs), _sums_backward)


def _index(C, axis):
  return jax.lax.broadcasted_iota(jnp.int32, (C, C), axis)


def _ones(where):
  return jnp.where(where, 1.0, 0.0)


class Documents:
  """What the documents of a chunk let through, as 0 and 1."""

  def __init__(self, numbers):
    self.numbers = numbers

  def mask(self, own):
    """Pairs of one document with j <= i, or j < i, [C, C] bool."""
    i, j = _index(TOKENS, 0), _index(TOKENS, 1)
    pairs = i >= j if own else i > j
    if self.numbers is None:
      return pairs
    return pairs & (column(self.numbers) == self.numbers)

  def read(self):
    """Where the state before is read, [C, 1]."""
    return 1.0 if self.numbers is None else _ones(column(self.numbers) == 0)

  def write(self):
    """Where the state after sees the token, [C, 1]."""
    if self.numbers is None:
      return 1.0
    return _ones(column(self.numbers) == self._last())

  def keeps(self):
    """Whether the state before is part of that after, [1, 1]."""
    return 1.0 if self.numbers is None else _ones(self._last() == 0)

  def _last(self):
    return jnp.max(self.numbers, axis=1, keepdims=True)


def column(row):
  """[1, C] -> [C, 1]."""
  C = row.shape[1]
  return _masked_sum(row, _index(C, 0) == _index(C, 1))


def _masked_sum(row, mask):
  return jnp.sum(jnp.where(mask, row, 0.0), axis=1, keepdims=True)


def shares_by_token(g, documents):
  """Of a gate by token: itself, limited, and what it leaves of the state.

  Args:
    g: [1, C].
    documents: ...

  Returns:
    g; the shares of the state before that tokens read and of their writes that are left
    after, [C, 1]; and that of the state before that is, [1, 1].
  """
  g = jnp.maximum(g, LOWEST)
  C = g.shape[1]
  i, j = _index(C, 0), _index(C, 1)
  return (
    g,
    jnp.exp(_masked_sum(g, j <= i)) * documents.read(),
    jnp.exp(_masked_sum(g, j > i)) * documents.write(),
    jnp.exp(jnp.sum(g, axis=1, keepdims=True)) * documents.keeps(),
  )


def shares_by_channel(g, documents, dot):
  """`shares_by_token` of gates by channel.

  Args:
    g: [C, K].
    documents: ...
    dot: ...

  Returns:
    g, limited; its `sums`; and the shares, [C, K] twice and [K, 1].
  """
  g = jnp.maximum(g, LEAST)
  near, levels = sums(g, dot)
  since, until, whole = levels[-1]
  return (
    g,
    (near, levels),
    jnp.exp(since) * documents.read(),
    jnp.exp(until) * documents.write(),
    column(jnp.exp(whole[0]) * documents.keeps()),
  )


def sums(g, dot):
  """Of g [C, K] in the blocks of 2 `SMALLEST` tokens, of twice as many, ... and of C.

  Those of the least are products with signs, the others sums of two halves'.

  Returns:
    In the least blocks the sums from the middle to a token, below 0 before it; and of
    each size the sums from the block's start up to and with a token, and from there to
    its end, [C, K], and of all its tokens, [C / size, 1, K].
  """
  C, K = g.shape
  i, j = _index(C, 0), _index(C, 1)
  size = 2 * SMALLEST
  block, second = (i ^ j) < size, (i & SMALLEST) > 0
  between = ((i ^ j) < SMALLEST) & ((j > i) ^ second)
  signs = [
    jnp.where(between, jnp.where(second, 1.0, -1.0), 0.0),
    _ones(block & (j <= i)),
    _ones(block & (j > i)),
  ]
  # One product: each half of g's bits is loaded into the matrix unit once.
  near, since, until = jax.lax.split(dot.sums(jnp.concatenate(signs), g), [C] * 3)
  whole = jnp.sum(g.reshape(-1, size, K), axis=1, keepdims=True)
  levels = [(since, until, whole)]
  while size < C:
    (since, late), (until, early) = halves(since, size), halves(until, size)
    first, then = halves(whole, 1)
    since, until = joined(since, late + first), joined(until + then, early)
    whole = first + then
    levels.append((since, until, whole))
    size *= 2
  return near, levels


def halves(x, size):
  """The first and the second of each two blocks of rows, [n, size, K]."""
  first, second = jax.lax.split(x.reshape(-1, 2, size, x.shape[-1]), (1, 1), axis=1)
  return first[:, 0], second[:, 0]


def joined(first, second):
  """The inverse: [2 n size, K]."""
  return jnp.concatenate([first, second], axis=1).reshape(-1, first.shape[-1])


def masked_exp(x, mask):
  """exp of what is not positive where the mask holds, else 0."""
  return jnp.where(mask, jnp.exp(jnp.where(mask, x, 0.0)), 0.0)


def stretches(row, dot):
  """Sums over j < m <= i of a row [1, C], at [i, j]; 0 where i <= j."""
  C = row.shape[1]
  i, j = _index(C, 0), _index(C, 1)
  return dot.fine("nn", jnp.where(j <= i, row, 0.0), _ones(i > j))


def scores(reads, writes, sums, dot, product):
  """Of all tokens with earlier ones, by channels that fade in between, j < i.

      A_ij = sum_c r_ic w_jc exp(g_{j+1,c} + ... + g_ic)

  A sum of products of matrices, each of the second halves of blocks with their first:
  there the exponent is the sum up to the middle and that from there on. In the smallest
  blocks all pairs are by a quotient: there no token's decay may be below `LEAST`.

  Args:
    reads: [C, K] each.
    writes: [C, K] each.
    sums: Of g, [C, K], at least `LEAST`.
    dot: ...
    product: `dot`, or `dot.pairs` where a gradient of g cancels, as if keys repeat.

  Returns:
    [C, C], of each read with each write.
  """
  near, levels = sums
  C, K = near.shape
  i, j = _index(C, 0), _index(C, 1)
  late = [faded(x, near, dot) for x in reads]
  early = [faded(x, -near, dot) for x in writes]
  pairs = ((i ^ j) < 2 * SMALLEST) & (i > j)
  out = [[jnp.where(pairs, product("nt", x, y), 0.0) for y in early] for x in late]
  size = 2 * SMALLEST
  for since, until, _ in levels[:-1]:
    E, (_, since) = halves(until, size)[0], halves(since, size)
    late = [faded(halves(x, size)[1], since, dot).reshape(-1, K) for x in reads]
    early = [faded(halves(x, size)[0], E, dot) for x in writes]
    early = [joined(x, jnp.zeros_like(x)) for x in early]
    block, of = (
      jax.lax.broadcasted_iota(jnp.int32, (C // 2, C), axis) // n
      for axis, n in ((0, size), (1, 2 * size))
    )
    for row, x in zip(out, late):
      for n, y in enumerate(early):
        more = jnp.where(block == of, product("nt", x, y), 0.0)
        first, second = halves(row[n], size)
        row[n] = joined(first, second + more.reshape(second.shape))
    size *= 2
  return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def faded(x, E, dot):
  """x exp(E), rounded as products round it: what cancels in sums of them then does."""
  return _faded(x, E, dot)


def _faded(x, E, dot):
  return dot.rounded(x * jnp.exp(E))


def _faded_backward(dot, kept, d):
  x, E = kept
  return (d * jnp.exp(E)).astype(x.dtype), d * _faded(x, E, dot)


faded.defvjp(lambda x, E, dot: (faded(x, E, dot), (x, E)), _faded_backward)


def with_own(A, q, k, documents):
  """Scores j < i, and those of tokens with themselves, of one document."""
  C = q.shape[0]
  own = jnp.sum(q.astype(f32) * k, axis=1, keepdims=True)
  own = jnp.where(_index(C, 0) == _index(C, 1), own, 0.0)
  return jnp.where(documents.mask(own=True), A + own, 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def inverse(M, dot):
  """(I + M)^-1 of a matrix below the diagonal, [C, C], C a power of two.

  From the inverses X of the blocks on the diagonal, I at first, those of blocks of
  twice the size: X - X M' X, M' being what of M is between two halves. Where keys
  repeat at beta = 2, X alternates between 2 and -2, and sums of it lose 7 bits.
  """
  return _inverse(M, dot)


def _inverse(M, dot):
  C = M.shape[0]
  i, j = _index(C, 0), _index(C, 1)
  X = _ones(i == j) - jnp.where((i ^ j) == 1, M, 0.0)
  size = 2
  while size < C:
    between = ((i ^ j) < 2 * size) & ((i & size) > (j & size))
    M_between = jnp.where(between, M, 0.0)
    if size < 8:  # Not whole tiles of float32.
      X -= dot.fine("nn", dot.fine("nn", X, M_between), X)
    else:
      first, second = halves(X, size)
      rows = second.reshape(-1, C)
      rows -= dot.finest("nn", dot.fine("nn", rows, M_between), X)
      X = joined(first, rows.reshape(second.shape))
    size *= 2
  return X


def _inverse_backward(dot, X, dX):
  """dM = -X^T dX X^T."""
  dM = -dot.fine("nt", dot.fine("tn", X, dX), X)
  C = X.shape[0]
  return (jnp.where(_index(C, 0) > _index(C, 1), dM, 0.0),)


inverse.defvjp(lambda M, dot: (inverse(M, dot),) * 2, _inverse_backward)
