"""What log-linear attention adds to a recurrence: a state for each scale of the past.

The tokens before place t fall into buckets as in a Fenwick tree. Token s is at level

    l(t, s) = 0 if s = t, else 1 + the highest bit in which t and s differ

so that level l >= 1 holds the 2^(l-1) tokens before those of lower level if t has that
bit, and none otherwise. The recurrence runs in each bucket, and a token reads them by
its own scales (Log-Linear Attention, Guo et al. 2025, arXiv:2506.04761, sec. 3)

    o_t = sum_l lambda_t^(l) S_t^(l)^T q_t

When the next token comes the lowest buckets merge, as in a binary counter that carries.
The last level is for all that is older: with L levels it takes what would be at L, L+1,
... too, and a sequence may be of any length.

Levels from different places are one rule: for s < p <= t, l(t, s) is the larger of
l(p, s) and l(t, p). So a chunk that begins at place p needs no more than its buckets.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, segments

__all__ = ["FenwickState", "Parts", "by_chunk", "by_token", "level", "prepare"]


class FenwickState(NamedTuple):
  """The past of a log-linear recurrence.

  Attributes:
    buckets: The states of levels 1 to L - 1; at level 0 is the current token alone.
    length: Tokens of the document so far.
  """

  buckets: Float[Array, "B H L-1 K V"]
  length: Int[Array, "B"]


def level(later, earlier, num_levels: int):
  """l(t, s) of two places, at most the last level."""
  return jnp.minimum(32 - jax.lax.clz(later ^ earlier), num_levels - 1)


def prepare(
  op, q, k, v, gates, level_scales, initial_state, segment_ids, scale
) -> chunks.Inputs:
  """`chunks.prepare`, whose last two gates are the scales and the places of the tokens.

  The places are [B, T, 1]; the state is a `FenwickState`.
  """
  gates = gates | dict(level_scales=(level_scales, "B T H L"))
  inputs = chunks.prepare(op, q, k, v, gates, None, segment_ids, scale)
  B, T, H, K = inputs.q.shape
  L = level_scales.shape[-1]
  if L < 2:
    raise ValueError(f"{op} needs level_scales of at least 2 levels; got {L}")
  shapes = (B, H, L - 1, K, v.shape[-1]), (B,)
  if initial_state is None:
    initial_state = FenwickState(jnp.zeros(shapes[0]), jnp.zeros(B, jnp.int32))
  got = tuple(x.shape for x in initial_state)
  if got != shapes:
    raise ValueError(
      f"{op} needs initial_state of buckets [B, H, L - 1, K, V] = {shapes[0]} and "
      f"lengths [B] = {shapes[1]}; got shapes {got}"
    )
  buckets, length = initial_state
  place = segments.positions(segment_ids, length, (B, T))
  return inputs._replace(
    gates=(*inputs.gates, place[..., None]),
    state=FenwickState(buckets.astype(inputs.state.dtype), length),
  )


def by_token(update, inputs: chunks.Inputs):
  """The recurrent form: `update(S, k, v, *gates) -> S` in each bucket."""
  q, k, v, gates, state, valid, starts, _ = inputs
  kind = state.buckets.dtype
  L = gates[-2].shape[-1]
  levels = jnp.arange(L)
  one_token = (levels == 0).astype(kind)
  # Only the token's own bucket, which was empty, receives its value.
  update = jax.vmap(update, (2, None, 2, *[None] * (len(gates) - 2)), 2)

  def step(S, token):
    q, k, v, *gates, scales, place, start, valid = token
    S = jnp.where(start[:, None, None, None, None], 0, S)
    S = jnp.pad(S, ((0, 0), (0, 0), (1, 0), (0, 0), (0, 0)))
    S = update(S, k, v[:, :, None] * one_token[:, None], *gates)
    read = jnp.einsum("bhlkv,bhk->bhlv", S, q, precision="highest")
    o = jnp.sum(scales[..., None] * read, axis=2)
    carry = jnp.where(valid[:, None], level(place + 1, place, L), 0)
    merged = jax.nn.one_hot(jnp.maximum(levels, carry), L, dtype=kind)
    S = jnp.einsum("bhlkv,blm->bhmkv", S, merged, precision="highest")
    return S[:, :, 1:], o

  tokens = (*(x.astype(kind) for x in (q, k, v)), *gates, starts, valid)
  tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), tokens)
  S, o = jax.lax.scan(step, state.buckets, tokens)
  o = jnp.where(valid[..., None, None], o.swapaxes(0, 1), 0).astype(v.dtype)
  return o, FenwickState(S, gates[-1][:, -1, 0] + 1)


class Parts(NamedTuple):
  """A chunk of the recurrence, linear in its values v and in the state S before it.

      o = weights v + reads S
      S' = keeps S - erase^T (erase_reads S) + writes^T v

  Attributes are as in `chunks.Affine`, but nothing is summed over tokens yet.
  """

  weights: Float[Array, "... C C"]
  reads: Float[Array, "... C K"]
  keeps: Float[Array, "... 1"]
  writes: Float[Array, "... C K"]
  erase: Float[Array, "... C K"] | None = None
  erase_reads: Float[Array, "... C K"] | None = None


def by_chunk(chunk, inputs: chunks.Inputs, size: int | None = None):
  """The chunked form of `chunk(q, k, *gates, mask, like) -> Parts`, in O(T log T).

  As `chunks.by_chunk`; but a chunk's L - 1 states are many, so that only those between
  groups of chunks, as many groups as chunks in one, are kept for the backward pass.
  """
  q, k, v, gates, state, valid, starts, _ = inputs
  T = q.shape[1]
  size = size or chunks.size_for(T)
  count = -(-T // size)
  groups = math.isqrt(count - 1) + 1
  number = -(-count // groups)

  step = jax.checkpoint(functools.partial(_advance, like=v), prevent_cse=False)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def group(S, tokens):
    q, k, v, *gates, scales, place, valid, starts = tokens
    mask = chunks.masks(starts, valid)
    parts = chunk(q, k, *gates, mask=mask, like=v)
    moves = _moves(place, mask, scales.shape[-1])
    own = parts.weights * _pick(scales, moves.own)
    out = chunks.product("...ij,...jv->...iv", own, v, like=v)
    inherited = _pick(scales, moves.inherited)
    scanned = (parts[1:], inherited, moves.entered, moves.merged, v)
    S, read = jax.lax.scan(step, S, scanned)
    return S, (out + read).astype(v.dtype)

  arrays = (q, k, v, *gates, valid[:, :, None], starts[:, :, None])
  cut = functools.partial(chunks.cut, groups=groups, number=number, size=size)
  S, o = jax.lax.scan(group, state.buckets, jax.tree.map(cut, arrays))
  o = jnp.where(valid[..., None, None], chunks.join(o, T), 0)
  return o, FenwickState(S, gates[-1][:, -1, 0] + 1)


class _Moves(NamedTuple):
  """Where the tokens of a chunk find each other and the buckets before it."""

  own: Int[Array, "... C C"]  # Level of token j for token i.
  inherited: Int[Array, "... C L-1"]  # Level, for token i, of each bucket before.
  entered: Float[Array, "... C L-1"]  # Whether token j is in each bucket after.
  merged: Float[Array, "... L-1 L-1"]  # Whether a bucket before is in one after.


def _moves(place, mask: chunks.Masks, L: int) -> _Moves:
  levels = jnp.arange(1, L)
  # Padding has its predecessor's place, so the next place is one more.
  first = place[..., :1] + ~mask.valid[..., :1]
  written = jnp.where(mask.to_state & mask.valid, place + 1, 0)
  after = jnp.max(written, axis=-1, keepdims=True)
  after = jnp.maximum(after, jnp.where(mask.keeps, first, 0))
  within = lambda levels: jax.nn.one_hot(levels - 1, L - 1)
  return _Moves(
    own=level(place[..., :, None], place[..., None, :], L),
    inherited=jnp.maximum(levels, level(place, first, L)[..., None]),
    entered=within(level(after, place, L)),
    merged=within(jnp.maximum(levels, level(after, first, L))),
  )


def _pick(scales, levels):
  """scales[levels] for each token: a product, as accelerators are slow to gather."""
  chosen = jax.nn.one_hot(levels, scales.shape[-1])
  return chunks.product("...il,...ijl->...ij", scales, chosen, like=scales)


def _outer(by_level, by_channel):
  return by_level[..., :, None] * by_channel[..., None, :]


def _advance(S, chunk, like):
  """The buckets before the next chunk, and what this one reads of those before it."""
  (reads, keeps, writes, erase, erase_reads), inherited, entered, merged, v = chunk
  reads, writes = _outer(inherited, reads), _outer(entered, writes)
  o = chunks.product("...imk,...mkv->...iv", reads, S, like=like)
  after = keeps[..., None, None] * S
  if erase is not None:
    gone = chunks.product("...ik,...mkv->...miv", erase_reads, S, like=like)
    after -= chunks.product("...ik,...miv->...mkv", erase, gone, like=like)
  after = jnp.einsum("...mkv,...mn->...nkv", after, merged, precision="highest")
  after += chunks.product("...jmk,...jv->...mkv", writes, v, like=like)
  return after, o
