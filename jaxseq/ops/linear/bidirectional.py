"""Gated linear attention in both directions (BiGLA; ViG, Liao et al. 2024, 2405.18425).

    F_t = diag(exp(f_t)) F_{t-1} + k_t v_t^T        from the left      state [K, V]
    G_t = diag(exp(g_t)) G_{t+1} + k_t v_t^T        from the right
    o_t = (F_t + G_t)^T q_t

Queries, keys and values are shared, the decays f and g are not. As in the authors'
kernel a token is in both sums: it counts twice, undecayed. (Their layer then halves o.)

The score of query i and key j is the sum over channels of q_i k_j times

    exp(f_{j+1} + ... + f_i)   if j < i,      2   if j = i,
    exp(g_i + ... + g_{j-1})   if j > i

so that within a chunk one product of scores and values serves both directions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "bidirectional"]


def bidirectional(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay_forward: Float[Array, "B T H K"],
  log_decay_backward: Float[Array, "B T H K"],
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T H V"]:
  """Reads two sums of key-value products, from the left and from the right.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    log_decay_forward: Natural log f of the share of the sum from the left that is kept
      at each token, by channel, <= 0. Not checked.
    log_decay_backward: Likewise g, of the sum from the right.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`. There is no state: the whole document is read.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(
    log_decay_forward=(log_decay_forward, "B T H K"),
    log_decay_backward=(log_decay_backward, "B T H K"),
  )
  inputs = chunks.prepare("bidirectional", q, k, v, gates, None, segment_ids, scale)
  T = q.shape[1]
  run = dispatch.select("bidirectional", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def reverse(inputs: chunks.Inputs) -> chunks.Inputs:
  """The same tokens from the last to the first; documents start where they ended."""
  q, k, v, gates, state, valid, starts = inputs
  ends = jnp.pad(starts[:, 1:], ((0, 0), (0, 1)))
  flip = lambda x: jnp.flip(x, axis=1)
  gates = tuple(map(flip, gates))
  return chunks.Inputs(*map(flip, (q, k, v)), gates, state, flip(valid), flip(ends))


def recurrent(inputs):
  """The definition: two scans."""
  f, g = inputs.gates

  def update(S, k, v, g):
    return jnp.exp(g)[..., None] * S + k[..., None] * v[..., None, :]

  left, _ = chunks.by_token(update, inputs._replace(gates=(f,)))
  right, _ = chunks.by_token(update, reverse(inputs._replace(gates=(g,))))
  return left + jnp.flip(right, axis=1)


def parallel(inputs):
  """One chunk of all tokens: T x T scores, and no state."""
  size = 1 << (inputs.q.shape[1] - 1).bit_length()
  return chunks.by_chunk(_both, inputs, size)[0]


def chunked(inputs):
  """`parallel` within chunks; one scan over the chunks in each direction."""
  here_and_left, _ = chunks.by_chunk(_both, inputs)
  from_right = reverse(inputs._replace(gates=inputs.gates[1:]))
  return here_and_left + jnp.flip(chunks.by_chunk(_state_alone, from_right)[0], axis=1)


def _both(q, k, v, f, g, *, mask):
  """Both directions within the chunk, and a map of the state from the left."""
  flip = lambda x: jnp.flip(x, axis=-2)
  pairs = (jnp.stack([x, flip(y)]) for x, y in ((q, q), (k, k), (f, g)))
  rows, cols, decay = pairs
  A, since, until = chunks.decayed_scores(
    rows[..., None, :, :], cols[..., None, :, :], decay, like=v
  )
  left, right = A[..., 0, 0, :, :]
  right = jnp.flip(right, axis=(-2, -1))
  # From the right a query sees the keys that see it from the left.
  A = jnp.where(mask.causal, left, 0)
  A += jnp.where(mask.causal.swapaxes(-2, -1), right, 0)
  out = chunks.product("...ij,...jv->...iv", A, v, like=v)
  return _affine(q, k, v, f, since[0], until[0], mask)._replace(out=out)


def _state_alone(q, k, v, g, *, mask):
  """A chunk as a map of the state before it, without its own tokens' outputs."""
  after = jnp.pad(g[..., 1:, :], [(0, 0)] * (g.ndim - 2) + [(0, 1), (0, 0)])
  until = jax.lax.cumsum(after, axis=g.ndim - 2, reverse=True)
  return _affine(q, k, v, g, jnp.cumsum(g, axis=-2), until, mask)


def _affine(q, k, v, g, since, until, mask):
  since = jnp.where(mask.from_state[..., None], jnp.exp(since), 0)
  until = jnp.where(mask.to_state[..., None], jnp.exp(until), 0)
  return chunks.Affine(
    out=jnp.zeros_like(v),
    reads=since * q,
    keeps=jnp.exp(jnp.sum(g, axis=-2)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", until * k, v, like=v),
  )


IMPLEMENTATIONS = {
  "chunked": Form(chunked),
  "parallel": Form(parallel),
  "recurrent": Form(recurrent),
}
