"""What the forms of the matrix-state recurrences share.

    S_t = update(S_{t-1}, k_t, v_t, gates_t),    o_t = S_t^T q_t      state [K, V]

Decays travel as logarithms and only ever add up: a share kept from token j to i is the
exponential of a sum over j < m <= i, never of a difference of two longer sums, so that
nothing cancels and no exponent is positive, whatever the gates are.

In the chunked forms a chunk is an affine map of the state before it, made for many
chunks at once; only the states go from chunk to chunk.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxseq_kernels import matrix_step
from jaxtyping import Array, Bool, Float

from jaxseq.ops import checks, dispatch, segments, sharded

__all__ = [
  "CHUNK_SIZE",
  "FACTORS",
  "LOGARITHMS",
  "Affine",
  "Given",
  "Inputs",
  "Masks",
  "Shares",
  "advance",
  "by_chunk",
  "by_kernel",
  "by_step",
  "by_token",
  "by_tree",
  "cut",
  "decayed_scores",
  "join",
  "masked_exp",
  "masks",
  "prepare",
  "product",
  "row_before",
  "segment_sums",
  "size_for",
  "with_gates",
]

# Tokens. On an accelerator the C x C products are then as large as those with the
# state; a CPU gains nothing from large ones.
CHUNK_SIZE = {"cpu": 32, "gpu": 64, "tpu": 64}

# Chunks that are made at once: enough to fill the device, few enough for its memory.
GROUP_SIZE = {"cpu": 16, "gpu": 32, "tpu": 8}


class Given(NamedTuple):
  """The arguments of a matrix-state op as its kernels take them.

  They scale the queries and skip padding on the way, so that no copy is made.

  Attributes:
    q: Queries, not scaled.
    k: Keys.
    v: Values.
    gates: Further arrays by token, at least float32.
    state: The state before the first token, or None.
    packed: Where there is padding and documents start, (valid, starts), or None twice.
    scale: Of the queries.
  """

  q: Float[Array, "B T H K"]
  k: Float[Array, "B T H K"]
  v: Float[Array, "B T H V"]
  gates: tuple[Array, ...]
  state: Float[Array, "B H K V"] | None
  packed: tuple[Bool[Array, "B T"] | None, Bool[Array, "B T"] | None]
  scale: float


class Inputs(NamedTuple):
  """The arguments of a matrix-state op, as its forms take them.

  Attributes:
    q: Queries, scaled.
    k: Keys, zero at padding.
    v: Values, zero at padding.
    gates: Further arrays by token, zero at padding: log decays, betas.
    state: The state before the first token, at least float32.
    valid: False at padding.
    starts: True where a document starts and the state is dropped.
    given: The same for kernels.
  """

  q: Float[Array, "B T H K"]
  k: Float[Array, "B T H K"]
  v: Float[Array, "B T H V"]
  gates: tuple[Array, ...]
  state: Float[Array, "B H K V"]
  valid: Bool[Array, "B T"]
  starts: Bool[Array, "B T"]
  given: Given | None = None


def prepare(op, q, k, v, gates, initial_state, segment_ids, scale) -> Inputs:
  """Checks shapes, applies the scale (K^-1/2 if None) and clears padding.

  Args:
    op: Name for messages.
    q: Queries. Of q, k and v those that have fewer heads, a divisor of H, are shared by
      neighbouring heads.
    k: Keys.
    v: Values.
    gates: By name, an array and its axes.
    initial_state: Or None.
    segment_ids: Or None.
    scale: Or None.
  """
  q, k, v = share_heads(q, k, v)
  sizes = checks.check_shapes(
    op,
    q=(q, "B T H K"),
    k=(k, "B T H K"),
    v=(v, "B T H V"),
    **gates,
    initial_state=(initial_state, "B H K V"),
    segment_ids=(segment_ids, "B T"),
  )
  B, T, H, K, V = (sizes[letter] for letter in "BTHKV")
  kind = jnp.promote_types(v.dtype, jnp.float32)
  scale = K**-0.5 if scale is None else scale
  state = jnp.zeros((B, H, K, V)) if initial_state is None else initial_state
  state = state.astype(kind)
  by_token = tuple(gate.astype(kind) for gate, _ in gates.values())
  given = Given(
    q, k, v, by_token, None if initial_state is None else state, (None, None), scale
  )
  arrays = [(q.astype(kind) * scale).astype(q.dtype), k, v, *by_token]
  valid, starts = jnp.ones((B, T), bool), jnp.zeros((B, T), bool)
  if segment_ids is not None:
    valid, starts, _ = segments.parse(segment_ids)
    given = given._replace(packed=(valid, starts))
    arrays = [segments.clear_padding(x, segment_ids) for x in arrays]
  q, k, v, *by_token = arrays
  return Inputs(q, k, v, tuple(by_token), state, valid, starts, given)


def share_heads(*arrays: Float[Array, "B T G _"]) -> list[Float[Array, "B T H _"]]:
  """Repeats heads up to the most that an array has, where their number divides it."""
  H = max((x.shape[2] for x in arrays if x.ndim == 4), default=0)
  fits = lambda x: x.ndim == 4 and 0 < x.shape[2] < H and H % x.shape[2] == 0
  return [jnp.repeat(x, H // x.shape[2], axis=2) if fits(x) else x for x in arrays]


def size_for(tokens: int) -> int:
  """The chunk for that many tokens: `CHUNK_SIZE`, or less if fewer would be padded."""
  return min(CHUNK_SIZE[dispatch.platform()], max(16, 1 << (tokens - 1).bit_length()))


def by_token(update, inputs: Inputs):
  """The recurrent form of `update(S, k, v, *gates) -> S`, in the dtype of the state."""
  q, k, v, gates, S, valid, starts, _ = inputs

  def step(S, token):
    q, k, v, *gates, start = token
    S = update(jnp.where(start[:, None, None, None], 0, S), k, v, *gates)
    return S, jnp.einsum("bhk,bhkv->bhv", q, S, precision="highest")

  tokens = (*(x.astype(S.dtype) for x in (q, k, v)), *gates, starts)
  S, o = jax.lax.scan(step, S, jax.tree.map(lambda x: x.swapaxes(0, 1), tokens))
  return jnp.where(valid[..., None, None], o.swapaxes(0, 1), 0).astype(v.dtype), S


def by_tree(decay: Float[Array, "B T H #K"], inputs: Inputs):
  """The associative form of S_t = diag(decay_t) S_{t-1} + k_t v_t^T, in factors.

  The maps S -> diag(a) S + k v^T are composed by a tree. All T states are held.
  """
  q, k, v, _, state, valid, starts, _ = inputs
  a = jnp.where(starts[..., None, None], 0, decay)[..., None]  # [B, T, H, K, 1]
  x = product("bthk,bthv->bthkv", k, v, like=v)

  def compose(first, then):
    (a, x), (b, y) = first, then
    return a * b, b * x + y

  kept, S = jax.lax.associative_scan(compose, (a, x), axis=1)
  S = S + kept * state[:, None]
  o = product("bthk,bthkv->bthv", q, S, like=v)
  return jnp.where(valid[..., None, None], o, 0).astype(v.dtype), S[:, -1]


def by_kernel(kernel, *gate_axes: str, backend: str, others=()) -> dispatch.Form:
  """The form that is a kernel: `fused` and `refusal` of a package of `jaxseq_kernels`.

  Args:
    kernel: The package.
    *gate_axes: The letters of the axes of each gate.
    backend: "gpu" or "tpu".
    others: The letters of the axes of what the form is given besides its inputs.
  """
  axes = ("BTHK", "BTHK", "BTHV", *gate_axes, "BHKV", "BT", "BT", *others)

  def arrays(given):
    valid, starts = given.packed
    return (given.q, given.k, given.v, *given.gates, given.state, starts, valid)

  def run(inputs, *rest):
    fused = functools.partial(kernel.fused, scale=inputs.given.scale, backend=backend)
    args = (*arrays(inputs.given), *rest)
    return sharded.over_batch_and_heads(fused, args, axes, ("BTHV", "BHKV"))

  def refusal(inputs, *rest):
    scale = inputs.given.scale
    return dispatch.no_kernels(backend) or kernel.refusal(
      *arrays(inputs.given), *rest, scale=scale, backend=backend
    )

  return dispatch.Form(run, refusal)


def by_step(*gates: str) -> dispatch.Form:
  """The form that is the kernel for one token, `matrix_step`.

  Args:
    *gates: The kernel's names of the op's gates.
  """

  def arrays(inputs):
    named = dict(zip(gates, inputs.gates, strict=True))
    others = (named.get(name) for name in ("log_decay", "beta", "a", "b"))
    return (inputs.given.q, inputs.k, inputs.v, inputs.state, *others)

  def run(inputs):
    args = arrays(inputs)
    fused = functools.partial(
      matrix_step.fused, scale=inputs.given.scale, backend="gpu"
    )
    gate_axes = ("" if x is None else "BTHK"[: x.ndim] for x in args[4:])
    axes = ("BTHK", "BTHK", "BTHV", "BHKV", *gate_axes)
    o, S = sharded.over_batch_and_heads(fused, args, axes, ("BTHV", "BHKV"))
    return jnp.where(inputs.valid[..., None, None], o, 0), S

  def refusal(inputs):
    return dispatch.no_kernels("gpu") or matrix_step.refusal(
      *arrays(inputs), scale=inputs.given.scale, backend="gpu"
    )

  return dispatch.Form(run, refusal)


def with_gates(form: dispatch.Form, gates: Callable) -> dispatch.Form:
  """A form of another op, whose gates are made of this one's.

  Args:
    form: Of the other op.
    gates: From `Inputs`, or `Given`, to the gates that the other op takes.
  """

  def changed(inputs):
    given = inputs.given
    if given is not None:
      given = given._replace(gates=gates(given))
    return inputs._replace(gates=gates(inputs), given=given)

  return dispatch.Form(
    lambda inputs: form.run(changed(inputs)),
    lambda inputs: form.refusal(changed(inputs)),
  )


class Affine(NamedTuple):
  """A chunk as a map of the state S before it, for each head.

      o = out + reads S,    S' = keeps S - erase^T (erase_reads S) + writes

  Attributes:
    out: Outputs of the chunk's own tokens.
    reads: What each token reads of the state before; zero where it may not.
    keeps: The share of each row of the state that is left after the chunk.
    writes: What the chunk adds to the state.
    erase: Rows that the chunk takes something from, or None.
    erase_reads: What each takes, of the state before.
  """

  out: Float[Array, "... C V"]
  reads: Float[Array, "... C K"]
  keeps: Float[Array, "... #K"]
  writes: Float[Array, "... K V"]
  erase: Float[Array, "... C K"] | None = None
  erase_reads: Float[Array, "... C K"] | None = None


def by_chunk(chunk, inputs: Inputs, size: int | None = None):
  """The chunked form of `chunk(q, k, v, *gates, mask) -> Affine`.

  Its arrays are [N, B, H, C, ...], N chunks at once; gates [N, B, H, C] or [N, B, H, C,
  K]. The backward pass makes each group of chunks again from the state it began with.
  `size` is C, in tokens; that of `size_for` if None.
  """
  q, k, v, gates, S, valid, starts, _ = inputs
  T = q.shape[1]
  size = size or size_for(T)
  count = -(-T // size)
  groups = -(-count // GROUP_SIZE[dispatch.platform()])
  number = -(-count // groups)

  # A loop's body needs no guard against the merging of both passes.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def group(S, tokens):
    *arrays, valid, starts = tokens
    parts = chunk(*arrays, mask=masks(starts, valid))
    S, before = jax.lax.scan(functools.partial(advance, like=v), S, parts[2:])
    o = parts.out + product("...ik,...kv->...iv", parts.reads, before, like=v)
    return S, o.astype(v.dtype)

  arrays = (q, k, v, *gates, valid[:, :, None], starts[:, :, None])
  cut_all = functools.partial(cut, groups=groups, number=number, size=size)
  S, o = jax.lax.scan(group, S, jax.tree.map(cut_all, arrays))
  return jnp.where(valid[..., None, None], join(o, T), 0), S


def advance(S, part, like):
  """From the state before a chunk to that after it, and again that before it.

  Args:
    S: [..., K, V].
    part: An `Affine` but for its first two.
    like: As in `product`.
  """
  keeps, writes, erase, erase_reads = part
  after = keeps[..., None] * S + writes
  if erase is not None:
    gone = product("...ik,...kv->...iv", erase_reads, S, like=like)
    after -= product("...ik,...iv->...kv", erase, gone, like=like)
  return after, S


def cut(x, groups, number, size):
  """[B, T, H, ...] -> [groups, number, B, H, size, ...], zeros at the end."""
  B, T, H, *rest = x.shape
  pad = [(0, 0), (0, groups * number * size - T)] + [(0, 0)] * (x.ndim - 2)
  x = jnp.pad(x, pad).reshape(B, groups, number, size, H, *rest)
  return jnp.moveaxis(x, (1, 2, 0, 4, 3), (0, 1, 2, 3, 4))


def join(x, length):
  """The inverse of `cut`, the first `length` tokens."""
  _, _, B, H, _, *rest = x.shape
  x = jnp.moveaxis(x, (0, 1, 2, 3, 4), (1, 2, 0, 4, 3))
  return x.reshape(B, -1, H, *rest)[:, :length]


def product(spec: str, *operands, like) -> Array:
  """An einsum that sums in float32 (float64 for float64 operands).

  The operands are rounded to bfloat16 if `like`, an input of the op, is; otherwise the
  products are exact to float32, on hardware too whose default is less.
  """
  kind = jnp.promote_types(like.dtype, jnp.float32)
  if like.dtype != jnp.bfloat16:
    operands = (x.astype(kind) for x in operands)
    return jnp.einsum(spec, *operands, precision="highest")
  operands = (x.astype(jnp.bfloat16) for x in operands)
  if dispatch.platform() == "cpu":  # It has no products of bfloat16 with float32 sums.
    return jnp.einsum(spec, *(x.astype(kind) for x in operands))
  return jnp.einsum(spec, *operands, preferred_element_type=kind)


def segment_sums(x: Float[Array, "... C"]) -> Float[Array, "... C C"]:
  """Sums of x over j < m <= i at [i, j]; 0 where i <= j.

  A logarithm of zero counts as -1e30: a product of zero and infinity is not a number.
  """
  C = x.shape[-1]
  x = jnp.maximum(x, -1e30)
  lower = jnp.tril(jnp.ones((C, C), x.dtype))
  later = jnp.where(jnp.tril(lower, -1), x[..., :, None], 0)  # x_m at [m, j] if j < m.
  return jnp.einsum("im,...mj->...ij", lower, later, precision="highest")


def masked_exp(x, mask):
  """exp(x) where the mask holds and 0 elsewhere, with finite gradients in both."""
  return jnp.where(mask, jnp.exp(jnp.where(mask, x, 0)), 0)


class Shares(NamedTuple):
  """How the shares that tokens keep of the state are written and put together."""

  join: Callable  # Of two stretches of tokens, one after the other.
  factor: Callable  # The number that the state is multiplied by.
  one: float  # All is kept.


LOGARITHMS = Shares(jnp.add, jnp.exp, 0.0)
FACTORS = Shares(jnp.multiply, lambda a: a, 1.0)  # Of either sign.


def decayed_scores(
  rows: Float[Array, "... R C K"],
  cols: Float[Array, "... S C K"],
  decay: Float[Array, "... C K"],
  *,
  like: Array,
  shares: Shares = LOGARITHMS,
) -> tuple[
  Float[Array, "... R S C C"], Float[Array, "... C K"], Float[Array, "... C K"]
]:
  """Scores of tokens i with tokens j <= i whose channels fade in between.

      A_ij = sum_k rows_ik cols_jk exp(g_{j+1,k} + ... + g_{i,k}),    0 where j > i

  That is no product of matrices. But between the halves of a stretch of tokens it is
  one: the sum is split where the second half begins, and neither part is positive. So
  halves are put together to wholes, from single tokens up to the chunk.

  Args:
    rows: R kinds of queries.
    cols: S kinds of keys.
    decay: What each token keeps, by channel, written as `shares` says. C is a power of
      two.
    like: As in `product`.
    shares: `LOGARITHMS` or `FACTORS`.

  Returns:
    The scores; what is left at token i of the state before the chunk; and what is left
    at the chunk's end of that after token j. The last two as `shares` says.
  """
  C, K = decay.shape[-2:]
  rows, cols = rows.astype(like.dtype), cols.astype(like.dtype)
  since, until = decay[..., None, :], jnp.full_like(decay[..., None, :], shares.one)
  A = jnp.sum(rows[..., :, None, :, :] * cols[..., None, :, :, :], axis=-1)
  A = A.astype(decay.dtype)[..., None, None]
  size = 1
  while size < C:
    (since_0, since_1), (until_0, until_1) = _halves(since), _halves(until)
    queries = (
      _halves(_stretches(rows, size))[1] * shares.factor(since_1)[..., None, :, :, :]
    )
    keys = (
      _halves(_stretches(cols, size))[0] * shares.factor(until_0)[..., None, :, :, :]
    )
    cross = _pairs(queries[..., :, None, :, :, :], keys[..., None, :, :, :, :], like)
    A_0, A_1 = _halves(A)
    upper = jnp.concatenate([A_0, jnp.zeros_like(cross)], axis=-1)
    A = jnp.concatenate([upper, jnp.concatenate([cross, A_1], axis=-1)], axis=-2)
    since = jnp.concatenate([since_0, shares.join(since_0[..., -1:, :], since_1)], -2)
    until = jnp.concatenate([shares.join(until_0, since_1[..., -1:, :]), until_1], -2)
    size *= 2
  return A[..., 0, :, :], since[..., 0, :, :], until[..., 0, :, :]


def _stretches(x, size):
  """[..., C, K] -> [..., C / s, s, K]."""
  return x.reshape(*x.shape[:-2], -1, size, x.shape[-1])


def _halves(x):
  """[..., N, s, K] -> the even and the odd of the N stretches of s tokens."""
  x = x.reshape(*x.shape[:-3], -1, 2, *x.shape[-2:])
  return x[..., 0, :, :], x[..., 1, :, :]


def _pairs(queries, keys, like):
  """Products of all s queries and s keys. No matrix unit is filled by few of them."""
  if queries.shape[-2] < 4:
    return jnp.sum(queries[..., :, None, :] * keys[..., None, :, :], axis=-1)
  return product("...ik,...jk->...ij", queries, keys, like=like)


def row_before(x: Float[Array, "... C N"]) -> Float[Array, "... C N"]:
  """Row i - 1 at i, zeros at the first."""
  return jnp.concatenate([jnp.zeros_like(x[..., :1, :]), x[..., :-1, :]], axis=-2)


class Masks(NamedTuple):
  """Which tokens of a chunk share a document; the same for all heads.

  Attributes:
    causal: Query i sees key j: j <= i, same document.
    from_state: Token i sees the state that the chunk began with.
    to_state: Token j is seen by the state that the chunk ends with.
    keeps: The state before is part of the state after.
    valid: False at padding.
  """

  causal: Bool[Array, "... C C"]
  from_state: Bool[Array, "... C"]
  to_state: Bool[Array, "... C"]
  keeps: Bool[Array, "... 1"]
  valid: Bool[Array, "... C"]


def masks(starts: Bool[Array, "... C"], valid: Bool[Array, "... C"]) -> Masks:
  """From where documents start."""
  index = jnp.cumsum(starts, axis=-1, dtype=jnp.int32)
  C = starts.shape[-1]
  causal = index[..., :, None] == index[..., None, :]
  causal &= jnp.tril(jnp.ones((C, C), bool))
  last = index[..., -1:]
  return Masks(causal, index == 0, index == last, last == 0, valid)
