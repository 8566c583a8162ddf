"""Prefix linear attention, JRT-RNN (Arora et al. 2024, arXiv:2407.05483, sec. 4).

    o_i = (S_i + P)^T q_i / max((z_i + r)^T q_i, epsilon)
    S_i = sum_{j <= i} k_j v_j^T,   z_i = sum_{j <= i} k_j
    P = sum_{j < M} k'_j v'_j^T,    r = sum_{j < M} k'_j               state [K, V]

The first M tokens, the prefix, have keys k' and values v' of their own, which all
tokens see, even those before them in the prefix: it is read twice. Past it this is
linear attention from the state P, and one state stands for both sums.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form
from jaxseq.ops.linear import linear_attention, noncausal_linear_attention
from jaxseq.ops.linear.normalized_linear_attention import LinearAttentionState

__all__ = ["IMPLEMENTATIONS", "prefix_linear_attention"]


def prefix_linear_attention(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  k_prefix: Float[Array, "B T H K"],
  v_prefix: Float[Array, "B T H V"],
  prefix_length: Int[Array, "B"],
  *,
  initial_state: LinearAttentionState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  epsilon: float = 1e-6,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], LinearAttentionState]:
  """Reads the mean of the values so far and of those of the whole prefix.

  Args:
    q: Features of the queries.
    k: Features of the keys.
    v: Values.
    k_prefix: Features of the keys of the prefix; those of later tokens do not count.
    v_prefix: Values of the prefix, likewise.
    prefix_length: M, tokens of each document of the row. A document that continues from
      `initial_state` has had its prefix.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None. Only the weight of `epsilon` depends on it.
    epsilon: The least denominator.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  name = "prefix_linear_attention"
  S, z = (None, None) if initial_state is None else initial_state
  sizes = checks.check_shapes(
    name,
    q=(q, "B T H K"),
    k=(k, "B T H K"),
    v=(v, "B T H V"),
    k_prefix=(k_prefix, "B T H K"),
    v_prefix=(v_prefix, "B T H V"),
    prefix_length=(prefix_length, "B"),
    S=(S, "B H K V"),
    z=(z, "B H K"),
    segment_ids=(segment_ids, "B T"),
  )
  shape = (sizes["B"], sizes["T"])
  read = _in_prefix(prefix_length, segment_ids, shape, initial_state is not None)
  state = None if S is None else jnp.concatenate([S, z[..., None]], axis=-1)
  with_ones = lambda v: jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
  only_read = lambda x: jnp.where(read[..., None, None], x, 0)
  arrays = q, k, with_ones(v)
  own = chunks.prepare(name, *arrays, {}, state, segment_ids, scale)
  arrays = q, only_read(k_prefix), only_read(with_ones(v_prefix))
  prefix = chunks.prepare(name, *arrays, {}, None, segment_ids, scale)
  args = (own, prefix, segment_ids is not None)
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, shape[1], *args)
  sums, state = run(*args)
  total = jnp.where(own.valid[..., None, None], sums[..., -1:], 1)
  o = sums[..., :-1] / jnp.maximum(total, epsilon)
  return o.astype(v.dtype), LinearAttentionState(state[..., :-1], state[..., -1])


def _in_prefix(prefix_length, segment_ids, shape, continued):
  """Which tokens are among the first of their document; [B, T]."""
  place = segments.positions(segment_ids, jnp.zeros(shape[0], jnp.int32), shape)
  read = place < prefix_length[:, None]
  if not continued:
    return read
  first = True if segment_ids is None else segments.parse(segment_ids).index == 0
  return read & ~jnp.broadcast_to(first, shape)


def _added(causal, whole):
  """A form of `linear_attention` and one of `noncausal_linear_attention`."""

  def run(own, prefix, packed):
    kind = own.state.dtype
    so_far, state = causal(own)
    of_prefix = whole(prefix, packed)
    index = jnp.cumsum(prefix.starts, axis=1)
    of_last = (index == index[:, -1:])[..., None, None]
    k, v = (jnp.where(of_last, x, 0) for x in (prefix.k, prefix.v))
    state += chunks.product("bthk,bthv->bhkv", k, v, like=prefix.v)
    return so_far.astype(kind) + of_prefix.astype(kind), state

  return run


def _whole(prefix, packed):
  whole = noncausal_linear_attention
  return (whole.chunked if packed else whole.summed)(prefix, packed)


IMPLEMENTATIONS = {
  "chunked": Form(_added(linear_attention.IMPLEMENTATIONS["chunked"].run, _whole)),
  "parallel": Form(
    _added(
      linear_attention.IMPLEMENTATIONS["parallel"].run,
      noncausal_linear_attention.parallel,
    )
  ),
  "recurrent": Form(
    _added(linear_attention.recurrent, noncausal_linear_attention.recurrent)
  ),
}
