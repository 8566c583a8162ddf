"""Linear attention with additive decays: LightNet (Qin et al. 2024, arXiv:2405.21022).

    D_t = D_{t-1} + exp(d_t)                                          [K]
    S_t = diag(D_{t-1} / D_t) S_{t-1} + (exp(d_t) / D_t) v_t^T        state [K, V]
    o_t = S_t^T q_t

(sec. 3.2.) So row k of S_t is the mean of the values so far, weighted by a softmax of
d over time. With z = log D, the excess u_t = d_t - z_{t-1} says it all: the key is
sigmoid(u_t) and the decay 1 - sigmoid(u_t), so this is `diagonal_decay` once z is
known, which takes one running sum.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, checks, chunks, dispatch
from jaxseq.ops.dispatch import Form
from jaxseq.ops.linear import diagonal_decay

__all__ = ["EMPTY", "IMPLEMENTATIONS", "AdditiveDecayState", "additive_decay"]

EMPTY = (
  -1e30
)  # z where there were no tokens; its exponential is 0, its gradient finite.


BLOCK_SIZE = 2048  # Tokens whose sums are made at once: few steps of much work.


class AdditiveDecayState(NamedTuple):
  """Means of values, and the logarithm of the sum of their weights. float32."""

  S: Float[Array, "B H K V"]
  z: Float[Array, "B H K"]


def additive_decay(
  q: Float[Array, "B T H K"],
  log_weight: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  *,
  initial_state: AdditiveDecayState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], AdditiveDecayState]:
  """Reads means of the values so far, weighted by channel, with queries.

  Args:
    q: Queries.
    log_weight: Natural log d of the weight of each token, any number.
    v: Values.
    initial_state: State before the first token. Zeros and `EMPTY` if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  name = "additive_decay"
  S, z = (None, None) if initial_state is None else initial_state
  q, log_weight, v = chunks.share_heads(q, log_weight, v)
  checks.check_shapes(
    name,
    q=(q, "B T H K"),
    log_weight=(log_weight, "B T H K"),
    v=(v, "B T H V"),
    S=(S, "B H K V"),
    z=(z, "B H K"),
  )
  inputs = chunks.prepare(name, q, log_weight, v, {}, S, segment_ids, scale)
  kind = inputs.state.dtype
  if z is None:
    z = jnp.full(inputs.state.shape[:3], EMPTY)
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, q.shape[1], inputs)
  o, S, z = run(inputs, z.astype(kind))
  return o, AdditiveDecayState(S, z)


def recurrent(inputs, z):
  """The definition, with D held as its logarithm."""
  q, d, v, _, S, valid, starts, _ = inputs

  def step(state, token):
    S, z = state
    q, d, v, valid, start = token
    S = jnp.where(start[:, None, None, None], 0, S)
    z = jnp.where(start[:, None, None], EMPTY, z)
    d = jnp.where(valid[:, None, None], d, EMPTY)
    after = jnp.where(valid[:, None, None], jnp.logaddexp(z, d), z)
    share = jnp.where(valid[:, None, None], jnp.exp(d - after), 0)
    S = jnp.exp(z - after)[..., None] * S + share[..., None] * v[..., None, :]
    return (S, after), jnp.einsum("bhk,bhkv->bhv", q, S, precision="highest")

  q, d, wide_v = (x.astype(S.dtype) for x in (q, d, v))
  tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), (q, d, wide_v, valid, starts))
  (S, z), o = jax.lax.scan(step, (S, z), tokens)
  o = jnp.where(valid[..., None, None], o.swapaxes(0, 1), 0)
  return o.astype(v.dtype), S, z


def _as_diagonal_decay(form):
  """A form of `diagonal_decay`, once every z is known."""

  def run(inputs, z):
    k, g, z = _keys_and_decays(inputs, z)
    o, S = form(inputs._replace(k=k, gates=(g,)))
    return o, S, z

  return run


def _keys_and_decays(inputs, z):
  """Block by block, so that the sums' parts are never held for all tokens."""

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def block(z, tokens):
    d, valid, starts = tokens
    d = jnp.where(valid, d.astype(z.dtype), EMPTY)
    before, z = _running_log_sums(d, z, starts)
    excess = jnp.where(valid, d - before, EMPTY)
    k = jax.nn.sigmoid(excess).astype(inputs.k.dtype)
    return z, (k, jax.nn.log_sigmoid(-excess))

  T = inputs.k.shape[1]
  by_channel = lambda x: x[..., None, None]
  tokens = inputs.k, by_channel(inputs.valid), by_channel(inputs.starts)
  z, cut = jax.lax.scan(block, z, blocks.split(tokens, min(T, BLOCK_SIZE)))
  return *blocks.join(cut, T), z


def _running_log_sums(d, z, starts):
  """z before each token of its document, and after the last."""

  def combine(first, then):
    (start_0, z_0), (start_1, z_1) = first, then
    joined = jnp.where(start_1, z_1, jnp.logaddexp(z_0, z_1))
    return start_0 | start_1, joined

  starts = jnp.pad(starts, ((0, 0), (1, 0), (0, 0), (0, 0)))
  d = jnp.concatenate([z[:, None], d], axis=1)
  _, after = jax.lax.associative_scan(combine, (starts, d), axis=1)
  return jnp.where(starts[:, 1:], EMPTY, after[:, :-1]), after[:, -1]


IMPLEMENTATIONS = {
  "chunked": Form(_as_diagonal_decay(diagonal_decay.chunked)),
  "recurrent": Form(recurrent),
}
