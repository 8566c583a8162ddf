"""The delta rule with separate gates for erasing and writing (Gated DeltaNet-2,
Hatamizadeh et al. 2026, arXiv:2605.22791: the Gated Delta Rule-2).

    S_t = (I - k_t (b_t * k_t)^T) diag(exp(g_t)) S_{t-1} + k_t (w_t * v_t)^T
    o_t = S_t^T q_t                                          state [K, V]

b_t says by key channel what is read of the old value to be removed, w_t by value
channel what is written. With b_t = w_t = beta_t it is `channel_delta_rule`, whose
chunks it shares.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.delta import channel_delta_rule
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "decoupled_delta_rule"]


def decoupled_delta_rule(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H K"],
  erase: Float[Array, "B T H K"],
  write: Float[Array, "B T H V"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Erases and writes under a key, each as its own gate says.

  Args:
    q: Queries.
    k: Keys, of length 1. Not checked.
    v: Values.
    log_decay: Natural log g of the share of each row of the state kept at each token,
      <= 0. Not checked.
    erase: Gate b on what the key reads to be removed, by key channel, in [0, 1]. Not
      checked.
    write: Gate w on the values, by value channel.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(
    log_decay=(log_decay, "B T H K"), erase=(erase, "B T H K"), write=(write, "B T H V")
  )
  inputs = chunks.prepare(
    "decoupled_delta_rule", q, k, v, gates, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select(
    "decoupled_delta_rule", IMPLEMENTATIONS, implementation, T, inputs
  )
  return run(inputs)


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, g, erase, write):
    S = jnp.exp(g)[..., None] * S
    read = jnp.einsum("bhk,bhkv->bhv", erase * k, S, precision="highest")
    return S + k[..., None] * (write * v - read)[..., None, :]

  return chunks.by_token(update, inputs)


def chunked(inputs):
  """The UT transform within chunks, `recurrent` from chunk to chunk."""
  return chunks.by_chunk(_chunk, inputs)


def _chunk(q, k, v, g, erase, write, *, mask):
  return channel_delta_rule.affine(q, k, write * v, g, erase * k, mask=mask, like=v)


IMPLEMENTATIONS = {"chunked": Form(chunked), "recurrent": Form(recurrent)}
