"""Diagonal decay with many states, of which each token reads and writes a few.

    S_t^m = diag(exp(g_tr)) S_{t-1}^m + k_tr v_tr^T,    o_tr = (S_t^m)^T q_tr

where m = route_tr; a state that no route of the token names stays as it is (Sparse
State Expansion, Pan et al. 2025, arXiv:2507.16577). See `routed` for its forms.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import dispatch, routed
from jaxseq.ops.dispatch import Form
from jaxseq.ops.linear import diagonal_decay

__all__ = ["IMPLEMENTATIONS", "routed_diagonal_decay"]


def routed_diagonal_decay(
  q: Float[Array, "B T R H K"],
  k: Float[Array, "B T R H K"],
  v: Float[Array, "B T R H V"],
  log_decay: Float[Array, "B T R H K"],
  route: Int[Array, "B T R"],
  num_states: int,
  *,
  initial_state: Float[Array, "B M H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T R H V"], Float[Array, "B M H K V"]]:
  """Reads fading sums of key-value products, each of the tokens routed to it.

  Args:
    q: Queries of each token for each of the R states that it is routed to.
    k: Keys, likewise.
    v: Values, likewise.
    log_decay: Natural log g of the share of each row of the state kept, <= 0. Not
      checked.
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
  name = "routed_diagonal_decay"
  gates = dict(log_decay=(log_decay, "H K"))
  inputs = routed.prepare(
    name, q, k, v, gates, route, num_states, initial_state, segment_ids, scale
  )
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, q.shape[1], inputs)
  o, state = run(inputs)
  return o.reshape(v.shape), state


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, g):
    return jnp.exp(g)[..., None] * S + k[..., None] * v[..., None, :]

  return routed.by_token(update, inputs)


def chunked(inputs):
  """Matrix products within chunks of the tokens of one state."""
  return routed.by_chunk(diagonal_decay.chunk, inputs)


IMPLEMENTATIONS = {"chunked": Form(chunked), "recurrent": Form(recurrent)}
