"""The gated delta rule with many states, of which each token reads and writes a few.

    S_t^m = exp(g_tr) (I - beta_tr k_tr k_tr^T) S_{t-1}^m + beta_tr k_tr v_tr^T
    o_tr = (S_t^m)^T q_tr

where m = route_tr; a state that no route of the token names stays as it is (Mixture of
Memories, Du et al. 2025, arXiv:2502.13685). See `routed` for its forms.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import dispatch, routed
from jaxseq.ops.delta import gated_delta_rule
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "routed_gated_delta_rule"]


def routed_gated_delta_rule(
  q: Float[Array, "B T R H K"],
  k: Float[Array, "B T R H K"],
  v: Float[Array, "B T R H V"],
  log_decay: Float[Array, "B T R H"],
  beta: Float[Array, "B T R H"],
  route: Int[Array, "B T R"],
  num_states: int,
  *,
  initial_state: Float[Array, "B M H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T R H V"], Float[Array, "B M H K V"]]:
  """Replaces what is stored under a key, in the memories that a token is routed to.

  Args:
    q: Queries of each token for each of the R states that it is routed to.
    k: Keys, likewise, of length 1. Not checked.
    v: Values, likewise.
    log_decay: Natural log g of the share of the state kept, <= 0. Not checked.
    beta: How much of the old value is replaced: 0 none, 1 all, 2 reflects.
    route: Numbers of the states, below M; those of a token differ. Not checked.
    num_states: M.
    initial_state: States before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last states in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  name = "routed_gated_delta_rule"
  gates = dict(log_decay=(log_decay, "H"), beta=(beta, "H"))
  inputs = routed.prepare(
    name, q, k, v, gates, route, num_states, initial_state, segment_ids, scale
  )
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, q.shape[1], inputs)
  o, state = run(inputs)
  return o.reshape(v.shape), state


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, g, beta):
    S = jnp.exp(g)[..., None, None] * S
    read = jnp.einsum("bhk,bhkv->bhv", k, S, precision="highest")
    u = beta[..., None] * (v - read)
    return S + k[..., None] * u[..., None, :]

  return routed.by_token(update, inputs)


def chunked(inputs):
  """The UT transform within chunks of the tokens of one state."""
  return routed.by_chunk(gated_delta_rule.chunk, inputs)


IMPLEMENTATIONS = {"chunked": Form(chunked), "recurrent": Form(recurrent)}
