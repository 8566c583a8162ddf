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

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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


def recurrent(inputs):
  """The definition: two scans."""
  f, g = inputs.gates

  def update(S, k, v, g):
    return jnp.exp(g)[..., None] * S + k[..., None] * v[..., None, :]

  left, _ = chunks.by_token(update, inputs._replace(gates=(f,)))
  right, _ = chunks.by_token(update, reverse(inputs._replace(gates=(g,))))
  return left + jnp.flip(right, axis=1)


def reverse(inputs: chunks.Inputs) -> chunks.Inputs:
  """The same tokens from the last to the first; documents start where they ended."""
  flip = lambda x: jnp.flip(x, axis=1)
  flipped = jax.tree.map(flip, inputs._replace(starts=ends(inputs.starts), given=None))
  return flipped._replace(state=inputs.state)


def ends(starts: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
  """True at the last token before the start of another document."""
  return jnp.pad(starts[:, 1:], ((0, 0), (0, 1)))


def parallel(inputs):
  """One chunk of all tokens: T x T scores, and no state."""
  size = 1 << (inputs.q.shape[1] - 1).bit_length()
  return chunks.by_chunk(_both, inputs, size)[0]


def chunked(inputs):
  """`parallel` within chunks; one scan over the chunks in each direction."""
  here_and_left, _ = chunks.by_chunk(_both, inputs)
  right = from_right(_map_from_right, inputs._replace(gates=inputs.gates[1:]))
  return here_and_left + right


def _both(q, k, v, f, g, *, mask):
  """Both directions within the chunk, and a map of the state from the left."""
  A, since, until = chunks.decayed_scores(
    q[..., None, :, :], k[..., None, :, :], f, like=v
  )
  # From the right the keys come later: they are the queries of the transposed scores.
  A_right, _, _ = chunks.decayed_scores(
    k[..., None, :, :], q[..., None, :, :], _shifted(g), like=v
  )
  A = jnp.where(mask.causal, A[..., 0, 0, :, :], 0)
  A += jnp.where(mask.causal, A_right[..., 0, 0, :, :], 0).swapaxes(-2, -1)
  since = jnp.where(mask.from_state[..., None], jnp.exp(since), 0)
  until = jnp.where(mask.to_state[..., None], jnp.exp(until), 0)
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", A, v, like=v),
    reads=since * q,
    keeps=jnp.exp(jnp.sum(f, axis=-2)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", until * k, v, like=v),
  )


def _map_from_right(q, k, v, g, *, sees, seen, keeps):
  """What a chunk reads, keeps and writes of the state from the right."""
  since = jnp.exp(jax.lax.cumsum(g, axis=g.ndim - 2, reverse=True))
  until = jnp.exp(jnp.cumsum(_shifted(g), axis=-2))
  reads = jnp.where(sees, since * q, 0)
  keeps = jnp.exp(jnp.sum(g, axis=-2)) * keeps
  k = jnp.where(seen, until * k, 0)
  return reads, keeps, chunks.product("...jk,...jv->...kv", k, v, like=v)


def _shifted(g):
  """The decays of the tokens before, within the chunk."""
  return jnp.pad(g[..., :-1, :], [(0, 0)] * (g.ndim - 2) + [(1, 0), (0, 0)])


def from_right(chunk: Callable, inputs: chunks.Inputs) -> Float[Array, "B T H V"]:
  """What tokens read of the state from the right of their chunk.

  The counterpart of `chunks.by_chunk`, in chunks of the same tokens, from the last to
  the first.

  Args:
    chunk: `chunk(q, k, v, *gates, sees, seen, keeps)` gives for many chunks what each
      token reads of the state, the share of it that is left at the chunk's start, and
      what the chunk adds. `sees` and `seen` [N, B, 1, C, 1] are the tokens of the
      chunk's last and first document, `keeps` [N, B, 1, 1] says if these are one.
    inputs: Of the op.
  """
  q, k, v, gates, S, valid, starts, _ = inputs
  T = q.shape[1]
  size = chunks.size_for(T)
  count = -(-T // size)
  groups = -(-count // chunks.GROUP_SIZE[dispatch.platform()])

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def group(S, tokens):
    *arrays, last = tokens
    index = jax.lax.cumsum(last.astype(jnp.int32), axis=last.ndim - 1, reverse=True)
    first = index[..., :1]
    reads, *part = chunk(
      *arrays,
      sees=(index == 0)[..., None],
      seen=(index == first)[..., None],
      keeps=first == 0,
    )
    step = lambda S, part: (part[0][..., None] * S + part[1], S)
    S, after = jax.lax.scan(step, S, tuple(part), reverse=True)
    return S, chunks.product("...ik,...kv->...iv", reads, after, like=v).astype(v.dtype)

  cut = functools.partial(
    chunks.cut, groups=groups, number=-(-count // groups), size=size
  )
  arrays = (q, k, v, *gates, ends(starts)[:, :, None])
  _, o = jax.lax.scan(group, S, jax.tree.map(cut, arrays), reverse=True)
  return jnp.where(valid[..., None, None], chunks.join(o, T), 0)


IMPLEMENTATIONS = {
  "chunked": Form(chunked),
  "parallel": Form(parallel),
  "recurrent": Form(recurrent),
}
