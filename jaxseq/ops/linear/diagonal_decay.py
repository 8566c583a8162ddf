"""Linear attention with a decay for each key channel: GLA, HGRN2, RWKV-6 without bonus.

    S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t     state [K, V]

(GLA, Yang et al. 2023, arXiv:2312.06635, eq. 3.) Within a chunk the score of query i
and key j is the sum over channels of q_i k_j exp(g_{j+1} + ... + g_i), no matrix
product. So chunks are cut again, as in GLA's secondary chunking (sec. 4.3): inside a
sub-chunk the sum is taken as it stands; from a sub-chunk to a later one the exponent is
split at the ends of both, into sums that are never positive, and the rest is a matrix
product.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "diagonal_decay"]

SUB_CHUNK_SIZE = 16  # Tokens: C x c x K exponentials a chunk, against C x K inputs.


def diagonal_decay(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H K"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Reads a sum of key-value products, fading by channel, with queries.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    log_decay: Natural log g of the share of each row of the state kept at each token,
      <= 0. Not checked.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(log_decay=(log_decay, "B T H K"))
  inputs = chunks.prepare(
    "diagonal_decay", q, k, v, gates, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select("diagonal_decay", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, g):
    return jnp.exp(g)[..., None] * S + k[..., None] * v[..., None, :]

  return chunks.by_token(update, inputs)


def associative(inputs):
  """The maps S -> diag(a) S + k v^T, composed by a tree. All T states are held."""
  q, k, v, (g,), state, valid, starts = inputs
  a = jnp.where(starts[..., None, None], 0, jnp.exp(g))[..., None]  # [B, T, H, K, 1]
  x = chunks.product("bthk,bthv->bthkv", k, v, like=v)

  def compose(first, then):
    (a, x), (b, y) = first, then
    return a * b, b * x + y

  kept, S = jax.lax.associative_scan(compose, (a, x), axis=1)
  S = S + kept * state[:, None]
  o = chunks.product("bthk,bthkv->bthv", q, S, like=v)
  return jnp.where(valid[..., None, None], o, 0).astype(v.dtype), S[:, -1]


def chunked(inputs):
  """Matrix products within chunks, `recurrent` from chunk to chunk."""
  return chunks.by_chunk(_chunk, inputs)


def _chunk(S, block):
  """Outputs of a chunk and the state after it, from the state before it."""
  q, k, v, g, starts = block
  B, C, H, K = q.shape
  mask = chunks.masks(starts)
  cut = lambda x: x.reshape(B, C // SUB_CHUNK_SIZE, SUB_CHUNK_SIZE, H, K)
  join = lambda x: x.reshape(B, C, H, K)
  sub = chunks.segment_sums(cut(g).reshape(-1, SUB_CHUNK_SIZE, H, K))
  sub = sub.reshape(B, -1, SUB_CHUNK_SIZE, SUB_CHUNK_SIZE, H, K)
  since_start = jnp.cumsum(cut(g), axis=2)  # From the sub-chunk's start, i included.
  to_end = sub[:, :, -1]  # To the sub-chunk's end, j excluded.
  total = since_start[:, :, -1]  # [B, n, H, K]
  totals = chunks.segment_sums(total)  # Of the sub-chunks after J, up to I.

  A = _scores(cut(q), cut(k), sub, since_start, to_end, totals, like=v)
  A = jnp.where(mask.causal[..., None], A, 0)
  o = chunks.product("bijh,bjhv->bihv", A, v, like=v)
  before = jnp.cumsum(jnp.pad(total, ((0, 0), (1, 0), (0, 0), (0, 0))), axis=1)[:, :-1]
  faded = join(cut(q) * jnp.exp(since_start + before[:, :, None]))
  faded = jnp.where(mask.from_state[..., None, None], faded, 0)
  o += chunks.product("bihk,bhkv->bihv", faded, S, like=v)

  kept = jnp.exp(jnp.sum(total, axis=1)) * mask.keeps[:, None, None]
  faded = join(cut(k) * jnp.exp(to_end + totals[:, -1, :, None]))
  faded = jnp.where(mask.to_state[..., None, None], faded, 0)
  S = kept[..., None] * S + chunks.product("bjhk,bjhv->bhkv", faded, v, like=v)
  return o, S


def _scores(q, k, sub, since_start, to_end, totals, like):
  """Scores [B, C, C, H] of queries and keys [B, n, c, H, K]; right where j <= i."""
  B, n, c, H, _ = q.shape
  lower = jnp.tril(jnp.ones((c, c), bool))[..., None, None]
  pairs = chunks.masked_exp(sub, lower)
  near = jnp.einsum(
    "bnihk,bnjhk,bnijhk->bnijh", *(x.astype(pairs.dtype) for x in (q, k)), pairs
  )
  # Between J and I lie the sub-chunks J + 1 .. I - 1.
  between = jnp.pad(totals, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))[:, :-1]
  earlier = jnp.tril(jnp.ones((n, n), bool), -1)[..., None, None, None]
  exponent = to_end[:, None] + between[:, :, :, None]  # [B, I, J, j, H, K]
  keys = k[:, None] * chunks.masked_exp(exponent, earlier)
  queries = q * jnp.exp(since_start)
  A = chunks.product("bmihk,bmnjhk->bminjh", queries, keys, like=like)
  A += jnp.einsum("bmijh,mn->bminjh", near, jnp.eye(n, dtype=near.dtype))
  return A.reshape(B, n * c, n * c, H)


IMPLEMENTATIONS = {
  "chunked": Form(chunked),
  "associative": Form(associative),
  "recurrent": Form(recurrent),
}
