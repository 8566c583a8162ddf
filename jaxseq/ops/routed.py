"""Many states, of which each token reads and writes a few.

    S_t^m = update(S_{t-1}^m, k_tr, v_tr, gates_tr)    where token t is routed to m
    S_t^m = S_{t-1}^m                                  elsewhere
    o_tr = (S_t^m)^T q_tr                              m = route_tr,  r = 1 .. R

In the chunked form the tokens of each state are put together, in the order of time and
from the beginning of a chunk, so that a chunk belongs to one state and is an affine map
of it as in `chunks`. So M states cost as much as one for R tokens in the place of each,
and up to M chunks of padding.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxseq.ops import checks, chunks, dispatch, segments

__all__ = [
  "Inputs",
  "Streams",
  "by_chunk",
  "by_slot",
  "by_token",
  "destinations",
  "prepare",
  "streams",
  "take",
]


class Inputs(NamedTuple):
  """The arguments of a routed op, as its forms take them.

  Attributes:
    slots: All routes of all tokens, one after another: T is T R here, and the state
      [B, M, H, K, V]. Its `starts` are not used.
    route: The state of each slot, or M at padding.
    document: Number of its document in its row, from 0.
  """

  slots: chunks.Inputs
  route: Int[Array, "B TR"]
  document: Int[Array, "B TR"]


def prepare(
  op, q, k, v, gates, route, num_states, initial_state, segment_ids, scale
) -> Inputs:
  """Checks shapes, applies the scale (K^-1/2 if None) and clears padding.

  Args:
    op: Name for messages.
    q: Queries, [B, T, R, H, K].
    k: Keys.
    v: Values.
    gates: By name, an array and its axes after "B T R".
    route: States, [B, T, R]; those of a token differ.
    num_states: M.
    initial_state: [B, M, H, K, V] or None.
    segment_ids: [B, T] or None.
    scale: Or None.
  """
  sizes = checks.check_shapes(
    op,
    q=(q, "B T R H K"),
    k=(k, "B T R H K"),
    v=(v, "B T R H V"),
    **{name: (gate, f"B T R {axes}") for name, (gate, axes) in gates.items()},
    route=(route, "B T R"),
    initial_state=(initial_state, "B M H K V"),
    segment_ids=(segment_ids, "B T"),
  )
  if sizes.setdefault("M", num_states) != num_states:
    raise ValueError(
      f"{op} needs initial_state [B, M, H, K, V] with M = {num_states}; "
      f"got shape {initial_state.shape}"
    )
  flat = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])
  slots = chunks.prepare(
    op,
    *(flat(x) for x in (q, k, v)),
    {name: (flat(gate), f"B T {axes}") for name, (gate, axes) in gates.items()},
    None,
    by_slot(segment_ids, sizes["R"]),
    scale,
  )
  kind = slots.state.dtype
  if initial_state is None:
    initial_state = jnp.zeros([sizes[a] for a in "BMHKV"])
  slots = slots._replace(state=initial_state.astype(kind))
  return Inputs(slots, *destinations(route, num_states, segment_ids))


def by_slot(segment_ids: Int[Array, "B T"] | None, num_routes: int):
  """Ids of the slots, [B, T R], or None."""
  return None if segment_ids is None else jnp.repeat(segment_ids, num_routes, axis=1)


def destinations(
  route: Int[Array, "B T R"], num_states: int, segment_ids: Int[Array, "B T"] | None
) -> tuple[Int[Array, "B TR"], Int[Array, "B TR"]]:
  """Where each slot goes: its state, or M at padding, and its document's number."""
  flat = route.reshape(route.shape[0], -1)
  if segment_ids is None:
    return flat, jnp.zeros_like(flat)
  valid, _, index = segments.parse(by_slot(segment_ids, route.shape[2]))
  return jnp.where(valid, flat, num_states), index


def by_token(update, inputs: Inputs):
  """The recurrent form of `update(S, k, v, *gates) -> S`, slot by slot."""
  (q, k, v, gates, S, valid, *_), route, document = inputs
  rows = jnp.arange(S.shape[0])

  def step(carry, slot):
    S, owner = carry  # The states, and the number of the document that each is of.
    route, document, q, k, v, *gates = slot
    which = rows, jnp.minimum(route, S.shape[1] - 1)
    fresh = owner[which] != document
    one = jnp.where(fresh[:, None, None, None], 0, S[which])
    one = update(one, k, v, *gates)
    o = jnp.einsum("bhk,bhkv->bhv", q, one, precision="highest")
    S = S.at[rows, route].set(one, mode="drop")  # None is written at padding.
    return (S, owner.at[rows, route].set(document, mode="drop")), o

  slots = (route, document, *(x.astype(S.dtype) for x in (q, k, v)), *gates)
  owner = jnp.zeros(S.shape[:2], jnp.int32)
  slots = jax.tree.map(lambda x: x.swapaxes(0, 1), slots)
  (S, owner), o = jax.lax.scan(step, (S, owner), slots)
  S = jnp.where((owner == document[:, -1:])[..., None, None, None], S, 0)
  return jnp.where(valid[..., None, None], o.swapaxes(0, 1), 0).astype(v.dtype), S


def by_chunk(chunk, inputs: Inputs):
  """The chunked form of `chunk(q, k, v, *gates, mask) -> chunks.Affine`."""
  q, k, v, gates, S, valid, *_ = inputs.slots
  size = chunks.size_for(q.shape[1])
  at = streams(inputs.route, inputs.document, S.shape[1], size)
  count = at.state.shape[1]
  groups = -(-count // chunks.GROUP_SIZE[dispatch.platform()])
  number = -(-count // groups)
  rows = jnp.arange(S.shape[0])

  def advance(S, part):
    part, state = part
    after, before = chunks.advance(S[rows, state], part, like=v)
    return S.at[rows, state].set(after), before

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def group(S, tokens):
    *arrays, valid, starts, state = tokens
    parts = chunk(*arrays, mask=chunks.masks(starts, valid))
    S, before = jax.lax.scan(advance, S, (parts[2:], state))
    o = parts.out + chunks.product("...ik,...kv->...iv", parts.reads, before, like=v)
    return S, o.astype(v.dtype)

  cut = functools.partial(chunks.cut, groups=groups, number=number, size=size)
  arrays = [take(x, at.slot) for x in (q, k, v, *gates)]
  arrays += [x[:, :, None] for x in (at.slot < q.shape[1], at.starts)]
  state = jnp.pad(at.state, ((0, 0), (0, groups * number - count)))
  state = jnp.moveaxis(state.reshape(-1, groups, number), 0, 2)
  S, o = jax.lax.scan(group, S, (*map(cut, arrays), state))
  o = take(chunks.join(o, at.slot.shape[1]), at.place)
  S = jnp.where(at.keeps[..., None, None, None], S, 0)
  return jnp.where(valid[..., None, None], o, 0), S


class Streams(NamedTuple):
  """Where slots stand when those of each state stand together.

  Attributes:
    place: Of each slot in the streams; L or more at padding.
    slot: At each place, or T R where there is none.
    state: Of each chunk. One that is empty may have any.
    starts: Whether the state before a place is of another document than its slot.
    begins: First place of each state.
    ends: The place after the last slot of each state.
    keeps: Whether the last slot of each state is of the row's last document.
  """

  place: Int[Array, "B N"]
  slot: Int[Array, "B L"]
  state: Int[Array, "B L/C"]
  starts: Bool[Array, "B L"]
  begins: Int[Array, "B M"]
  ends: Int[Array, "B M"]
  keeps: Bool[Array, "B M"]


def streams(
  route: Int[Array, "B N"],
  document: Int[Array, "B N"],
  num_states: int,
  size: int,
  head: int = 0,
) -> Streams:
  """Puts the slots of each state together, in the order of time.

  Args:
    route: State of each slot, M for none.
    document: Number of its document.
    num_states: M.
    size: Of the chunks, at the beginning of one of which each state begins.
    head: Places left free before the slots of each state.
  """
  N, M = route.shape[1], num_states
  length = ((N + M * head) // size + M) * size  # All may end within a chunk.
  places = jnp.arange(length)[:, None]
  mine = route[..., None] == jnp.arange(M)  # [B, N, M]
  number = jnp.cumsum(mine, axis=1, dtype=jnp.int32)
  count = head + number[:, -1]
  chunks_after = jnp.cumsum(-(-count // size), axis=1)
  begins = jnp.pad(chunks_after[:, :-1], ((0, 0), (1, 0))) * size
  place = jnp.sum(jnp.where(mine, begins[:, None] + head + number - 1, 0), axis=-1)
  place = jnp.where(route < M, place, length)
  put = lambda place: jnp.full(length, N).at[place].set(jnp.arange(N), mode="drop")
  slot = jax.vmap(put)(place)
  state = jnp.sum(places[: length // size] >= chunks_after[:, None], axis=-1)
  here = take(document, slot)
  before = jnp.pad(here[:, :-1], ((0, 0), (1, 0)))
  first = jnp.any(places == begins[:, None] + head, axis=-1)
  latest = jnp.max(jnp.where(mine, document[..., None], 0), axis=1)
  return Streams(
    place=place,
    slot=slot,
    state=jnp.minimum(state, M - 1),
    starts=(slot < N) & (here != jnp.where(first, 0, before)),
    begins=begins,
    ends=begins + count,
    keeps=latest == document[:, -1:],
  )


def take(x: Array, index: Int[Array, "B L"]) -> Array:
  """x [B, N, ...] at the index, zeros where that is out of bounds."""
  return jax.vmap(lambda x, i: x.at[i].get(mode="fill", fill_value=0))(x, index)
