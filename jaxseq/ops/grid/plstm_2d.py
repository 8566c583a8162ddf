"""The linear recurrence over the edges of a grid (pLSTM, Poeppel et al. 2025).

    C_right, C_down = T (C_left, C_up) + s k v^T              state [2, K, V]
    o = (m_left C_left + m_up C_up)^T q + d (q . k) v

A state stands on each edge, from a node to the one right of it and to the one below it
(arXiv:2506.11997, sec. 4, eq. 5-6, and sec. 4.3.1). A node's Source s and Transition T,
a 2 x 2 matrix, say what its outgoing edges take from it and from its incoming edges,
its Mark m what it reads of these. States grow with the number of paths, unless the
columns of |T| have sums of at most one (P-mode), or one of the two entries off the
diagonal is zero everywhere and no other is over one (D-mode; sec. 4.2).

Right and down is one of four directions; o is the sum over those that are asked for.

A tile of nodes is a linear map too, of the edges that enter it and of its nodes to the
edges that leave it and to what its nodes read. Two tiles side by side, or one above the
other, make a larger one (sec. 4.1.2), so that log2 T steps give all of T x T scores.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "plstm_2d"]

TILE_SIZE = 8  # Rows and columns of nodes that are one map in the chunked form.


class Nodes(NamedTuple):
  """The arguments of the op as its forms take them: every direction is right and down.

  Directions are joined to the batch. Gates are zero at padding, and T and m for edges
  from another document.
  """

  q: Float[Array, "N R C H K"]
  k: Float[Array, "N R C H K"]
  v: Float[Array, "N R C H V"]
  source: Float[Array, "N R C H 2"]
  transition: Float[Array, "N R C H 2 2"]
  mark: Float[Array, "N R C H 2"]


def plstm_2d(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  source: Float[Array, "B T H O 2"],
  transition: Float[Array, "B T H O 2 2"],
  mark: Float[Array, "B T H O 2"],
  direct: Float[Array, "B T H"],
  *,
  grid: tuple[int, int],
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T H V"]:
  """Reads sums of key-value products that travel over a grid.

  Args:
    q: Queries, of a grid of R x C nodes, written row by row.
    k: Keys.
    v: Values.
    source: What the edges to the right and down take of k v^T, for each of the first O
      of the directions right-down, left-down, right-up, left-up. ("Right" and "down"
      mean away from where the direction comes from.)
    transition: What they (first axis) take of the edges from the left and from above
      (second axis). Not checked; see above for what is stable.
    mark: What the node reads of the edges from the left and from above.
    direct: What the node reads of its own k v^T.
    grid: R and C, T = R C.
    segment_ids: Packed documents; see `ops.segments`. No edge joins two of them.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`. There is no state: the whole grid is read.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(
    source=(source, "B T H O E"),
    transition=(transition, "B T H O E F"),
    mark=(mark, "B T H O F"),
    direct=(direct, "B T H"),
  )
  inputs = chunks.prepare("plstm_2d", q, k, v, gates, None, segment_ids, scale)
  B, T = q.shape[:2]
  O, *edges = transition.shape[3:]
  if edges != [2, 2] or O > 4:
    raise ValueError(
      "plstm_2d needs at most four directions with two outgoing and two incoming "
      f"edges; got transition {transition.shape}"
    )
  R, C = grid
  if R * C != T:
    raise ValueError(f"plstm_2d needs a grid of T = {T} nodes; got {R} x {C}")
  *gates, direct = inputs.gates
  nodes = _turn_all(inputs, gates, segment_ids, (R, C))
  run = dispatch.select("plstm_2d", IMPLEMENTATIONS, implementation, T, nodes)
  o = run(nodes).reshape(O, B, R, C, *v.shape[2:])
  o = sum(_turn(o[i], i) for i in range(O)).reshape(v.shape)
  here = jnp.einsum("bthk,bthk->bth", inputs.q, inputs.k, precision="highest")
  return (o + (direct * here)[..., None] * inputs.v).astype(v.dtype)


def _turn(x, direction):
  """Makes a direction right-down, or right-down that direction; [B, R, C, ...]."""
  return jnp.flip(x, [2] * (direction % 2) + [1] * (direction // 2))


def _turn_all(inputs, gates, segment_ids, grid):
  """`Nodes` of all directions."""
  B, T, _, O = gates[0].shape[:4]
  spread = lambda x: x.reshape(B, *grid, *x.shape[2:])
  join = lambda turned: jnp.concatenate([_turn(x, i) for i, x in enumerate(turned)])
  qkv = [join([spread(x)] * O) for x in inputs[:3]]
  source, transition, mark = (
    join(spread(x)[:, :, :, :, i] for i in range(O)) for x in gates
  )
  if segment_ids is not None:
    valid, _, index = segments.parse(segment_ids)
    document = join([spread(jnp.where(valid, index + 1, 0))] * O)
    before = lambda axis: jnp.roll(document, 1, axis)  # No edge comes from the border.
    near = jnp.stack([document == before(2), document == before(1)], axis=-1)
    near = near[..., None, :]
    transition = jnp.where(near[..., None, :], transition, 0)
    mark = jnp.where(near, mark, 0)
  return Nodes(*qkv, source, transition, mark)


def recurrent(nodes):
  """The definition: row after row, and in each node after node."""
  kind = jnp.promote_types(nodes.v.dtype, jnp.float32)

  def node(left, token):
    (q, k, v, source, transition, mark), up = token
    entering = jnp.stack([left, up], axis=2)
    o = jnp.einsum("nhk,nhe,nhekv->nhv", q, mark, entering, precision="highest")
    leaving = jnp.einsum("nhef,nhfkv->nhekv", transition, entering, precision="highest")
    leaving += source[..., None, None] * (k[..., None] * v[..., None, :])[:, :, None]
    return leaving[:, :, 0], (leaving[:, :, 1], o)

  def row(up, tokens):
    _, (down, o) = jax.lax.scan(node, jnp.zeros_like(up[0]), (tokens, up))
    return down, o

  N, R, C, H, K = nodes.k.shape
  nodes = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2).astype(kind), nodes)
  _, o = jax.lax.scan(row, jnp.zeros((C, N, H, K, nodes.v.shape[-1]), kind), nodes)
  return jnp.moveaxis(o, 2, 0)


def parallel(nodes):
  """One tile of all nodes: T x T scores."""
  R, C = nodes.q.shape[1:3]
  sizes = _powers_of_two(R, C)
  tiles, maps, order = _tiles(nodes, sizes)
  _, o = _read(*jax.tree.map(lambda x: x[0, 0], (tiles, maps)), None)
  return _untile(o[None, None], order, sizes)[:, :R, :C]


def chunked(nodes):
  """`parallel` within tiles, `recurrent` from tile to tile."""
  R, C = nodes.q.shape[1:3]
  sizes = [min(n, TILE_SIZE) for n in _powers_of_two(R, C)]
  if sizes[0] >= R and sizes[1] >= C:
    return parallel(nodes)
  tiles, maps, order = _tiles(nodes, sizes)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def tile(left, token):
    inputs, up = token
    leaving, o = _read(*inputs, jnp.concatenate([left, up], axis=2))
    right, down = jnp.split(leaving, [sizes[0]], axis=2)
    return right, (down, o)

  def row(up, tokens):
    left = jnp.zeros((*up.shape[1:3], sizes[0], *up.shape[4:]), up.dtype)
    _, (down, o) = jax.lax.scan(tile, left, (tokens, up))
    return down, o

  _, count, N, H, _, K = tiles.k.shape
  up = jnp.zeros((count, N, H, sizes[1], K, tiles.v.shape[-1]), maps.dtype)
  _, o = jax.lax.scan(row, up, (tiles, maps))
  return _untile(o, order, sizes)[:, :R, :C]


def _powers_of_two(*sizes):
  """The least that are not below the sizes."""
  return [1 << (n - 1).bit_length() for n in sizes]


class Tile(NamedTuple):
  """The nodes of a tile, or of many."""

  q: Float[Array, "... n K"]
  k: Float[Array, "... n K"]
  v: Float[Array, "... n V"]


def _read(tile, matrix, entering):
  """What leaves a tile and what its nodes read, if `entering` enters it; None is zero.

  Args:
    tile: q, k and v [N, H, n, ...].
    matrix: The tile as a map [N, H, E + n, E + n]; see `_tiles`.
    entering: States of the entering edges [N, H, E, K, V].
  """
  q, k, v = tile
  n = q.shape[-2]
  E = matrix.shape[-1] - n
  product = functools.partial(chunks.product, like=v)
  scores = product("...ik,...jk->...ij", q, k) * matrix[..., E:, E:]
  o = product("...ij,...jv->...iv", scores, v)
  if entering is None:
    return None, o
  o += product("...ik,...ie,...ekv->...iv", q, matrix[..., E:, :E], entering)
  leaving = product("...ei,...ik,...iv->...ekv", matrix[..., :E, E:], k, v)
  leaving += product("...ef,...fkv->...ekv", matrix[..., :E, :E], entering)
  return leaving, o


def _tiles(nodes, sizes):
  """Cuts the grid into tiles of nodes, and finds the map that each of them is.

  Args:
    nodes: Of the op.
    sizes: Rows and columns of a tile, powers of two.

  Returns:
    `Tile` with arrays [rows of tiles, columns of tiles, N, H, nodes of a tile, ...];
    the maps in the same layout, to (edges right, edges down, what nodes read) from
    (edges from the left, edges from above, nodes); and the order of a tile's nodes.
  """

  def cut(x):
    """[N, R, C, H, ...] -> [rows, columns, N, H, R', C', ...], zeros at the end."""
    N, R, C, H, *rest = x.shape
    (rows, r), (columns, c) = ((-(-n // size), size) for n, size in zip((R, C), sizes))
    pad = [(0, 0), (0, rows * r - R), (0, columns * c - C)] + [(0, 0)] * (x.ndim - 3)
    x = jnp.pad(x, pad).reshape(N, rows, r, columns, c, H, *rest)
    return jnp.moveaxis(x, (1, 3, 0, 5, 2, 4), (0, 1, 2, 3, 4, 5))

  q, k, v, source, transition, mark = map(cut, nodes)
  edges = jnp.concatenate([transition, source[..., None]], axis=-1)
  reads = jnp.pad(mark, [(0, 0)] * (mark.ndim - 1) + [(0, 1)])  # Not its own k v^T.
  maps = jnp.concatenate([edges, reads[..., None, :]], axis=-2)
  outer = maps.shape[:4]
  maps = maps.reshape(-1, *maps.shape[4:])  # XLA's CPU backend takes no eight axes.
  order = np.arange(math.prod(sizes)).reshape(*sizes, 1, 1)
  edge_sizes = [1, 1]  # Edges that enter a tile from the left, and from above.
  while maps.shape[1] * maps.shape[2] > 1:
    axis = int(maps.shape[1] > maps.shape[2])
    maps = _join(*_halves(maps, axis), edge_sizes, axis)
    order = np.concatenate(_halves(order, axis), axis=-2)
    edge_sizes[1 - axis] *= 2
  order = order.reshape(-1)
  flat = lambda x: x.reshape(*x.shape[:4], -1, x.shape[-1])[..., order, :]
  maps = maps.reshape(*outer, *maps.shape[3:])
  return Tile(flat(q), flat(k), flat(v)), maps, order


def _halves(x, axis):
  """Of neighbours the first and the second: side by side (axis 0), or one above."""
  if axis:
    return x[..., 0::2, :, :, :], x[..., 1::2, :, :, :]
  return x[..., 0::2, :, :], x[..., 1::2, :, :]


def _join(first, then, edge_sizes, axis):
  """The map of two tiles, the edges that leave the first entering the second.

  Args:
    first: Map of the tile on the left, or above.
    then: Map of the other one.
    edge_sizes: How many edges enter each of them from the left and from above.
    axis: Which of these kinds of edges leads from one tile to the other.
  """
  bounds = np.cumsum(edge_sizes)
  common = slice(bounds[axis] - edge_sizes[axis], bounds[axis])
  cross = jnp.matmul(then[..., :, common], first[..., common, :], precision="highest")

  def weave(a, b, outer, dim):
    """Both tiles' parts, kind by kind; of the common kind those at the outside."""
    kinds = zip(jnp.split(a, bounds, dim), jnp.split(b, bounds, dim))
    parts = [
      pair[outer] if kind == axis else jnp.concatenate(pair, dim)
      for kind, pair in enumerate(kinds)
    ]
    return jnp.concatenate(parts, dim)

  above = weave(first, jnp.zeros_like(first), 0, -1)
  return weave(above, weave(cross, then, 0, -1), 1, -2)


def _untile(o, order, sizes):
  """[rows, columns, N, H, nodes of a tile, V] -> [N, R, C, H, V]."""
  rows, columns, N, H, _, V = o.shape
  o = o[..., np.argsort(order), :].reshape(rows, columns, N, H, *sizes, V)
  o = jnp.moveaxis(o, (2, 0, 4, 1, 5, 3), (0, 1, 2, 3, 4, 5))
  return o.reshape(N, rows * sizes[0], columns * sizes[1], H, V)


IMPLEMENTATIONS = {
  "chunked": Form(chunked),
  "parallel": Form(parallel),
  "recurrent": Form(recurrent),
}
