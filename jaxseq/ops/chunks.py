"""What the forms of the matrix-state recurrences share.

    S_t = update(S_{t-1}, k_t, v_t, gates_t),    o_t = S_t^T q_t      state [K, V]

Decays travel as logarithms and only ever add up: a share kept from token j to i is the
exponential of a sum over j < m <= i, never of a difference of two longer sums, so that
nothing cancels and no exponent is positive, whatever the gates are.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseq.ops import blocks, checks, dispatch, segments

__all__ = [
  "CHUNK_SIZE",
  "Inputs",
  "Masks",
  "by_chunk",
  "by_token",
  "masked_exp",
  "masks",
  "prepare",
  "product",
  "segment_sums",
  "size_for",
]

# Tokens. On an accelerator the C x C products are then as large as those with the
# state; a CPU gains nothing from large ones.
CHUNK_SIZE = {"cpu": 32, "gpu": 64, "tpu": 64}


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
  """

  q: Float[Array, "B T H K"]
  k: Float[Array, "B T H K"]
  v: Float[Array, "B T H V"]
  gates: tuple[Array, ...]
  state: Float[Array, "B H K V"]
  valid: Bool[Array, "B T"]
  starts: Bool[Array, "B T"]


def prepare(op, q, k, v, gates, initial_state, segment_ids, scale) -> Inputs:
  """Checks shapes, applies the scale (K^-1/2 if None) and clears padding.

  Args:
    op: Name for messages.
    q: Queries.
    k: Keys.
    v: Values.
    gates: By name, an array and its axes.
    initial_state: Or None.
    segment_ids: Or None.
    scale: Or None.
  """
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
  q = (q.astype(kind) * scale).astype(q.dtype)
  arrays = [q, k, v]
  arrays += [gate.astype(kind) for gate, _ in gates.values()]
  valid, starts = jnp.ones((B, T), bool), jnp.zeros((B, T), bool)
  if segment_ids is not None:
    valid, starts, _ = segments.parse(segment_ids)
    arrays = [segments.clear_padding(x, segment_ids) for x in arrays]
  q, k, v, *gates = arrays
  return Inputs(q, k, v, tuple(gates), state.astype(kind), valid, starts)


def size_for(tokens: int) -> int:
  """The chunk for that many tokens: `CHUNK_SIZE`, or less if fewer would be padded."""
  return min(CHUNK_SIZE[dispatch.platform()], max(16, 1 << (tokens - 1).bit_length()))


def by_token(update, inputs: Inputs):
  """The recurrent form of `update(S, k, v, *gates) -> S`, in the dtype of the state."""
  q, k, v, gates, S, valid, starts = inputs

  def step(S, token):
    q, k, v, *gates, start = token
    S = update(jnp.where(start[:, None, None, None], 0, S), k, v, *gates)
    return S, jnp.einsum("bhk,bhkv->bhv", q, S, precision="highest")

  tokens = (*(x.astype(S.dtype) for x in (q, k, v)), *gates, starts)
  S, o = jax.lax.scan(step, S, jax.tree.map(lambda x: x.swapaxes(0, 1), tokens))
  return jnp.where(valid[..., None, None], o.swapaxes(0, 1), 0).astype(v.dtype), S


def by_chunk(chunk, inputs: Inputs):
  """The chunked form: `chunk(S, (q, k, v, *gates, starts)) -> o, S`, in a row.

  The backward pass makes each chunk again from the state that it began with.
  """
  q, k, v, gates, S, valid, starts = inputs
  T = q.shape[1]

  # A loop's body needs no guard against the merging of both passes.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def step(S, block):
    o, S = chunk(S, block)
    return S, o.astype(v.dtype)

  S, o = jax.lax.scan(step, S, blocks.split((q, k, v, *gates, starts), size_for(T)))
  return jnp.where(valid[..., None, None], blocks.join(o, T), 0), S


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


def segment_sums(x: Float[Array, "B C ..."]) -> Float[Array, "B C C ..."]:
  """Sums of x over j < m <= i at [i, j]; 0 where i <= j."""
  C = x.shape[1]
  below = jnp.tril(jnp.ones((C, C), bool), -1)
  below = below.reshape(C, C, *[1] * (x.ndim - 2))
  return jnp.cumsum(jnp.where(below, x[:, :, None], 0), axis=1)


def masked_exp(x, mask):
  """exp(x) where the mask holds and 0 elsewhere, with finite gradients in both."""
  return jnp.where(mask, jnp.exp(jnp.where(mask, x, 0)), 0)


class Masks(NamedTuple):
  """Which tokens of a chunk share a document.

  Attributes:
    causal: Query i sees key j: j <= i, same document.
    from_state: Token i sees the state that the chunk began with.
    to_state: Token j is seen by the state that the chunk ends with.
    keeps: The state before is part of the state after.
  """

  causal: Bool[Array, "B C C"]
  from_state: Bool[Array, "B C"]
  to_state: Bool[Array, "B C"]
  keeps: Bool[Array, "B"]


def masks(starts: Bool[Array, "B C"]) -> Masks:
  """From where documents start."""
  index = jnp.cumsum(starts, axis=1, dtype=jnp.int32)
  C = starts.shape[1]
  causal = jnp.tril(jnp.ones((C, C), bool)) & (index[:, :, None] == index[:, None])
  last = index[:, -1:]
  return Masks(causal, index == 0, index == last, last[:, 0] == 0)
