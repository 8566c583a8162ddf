"""Linear attention with its denominator (Katharopoulos et al. 2020, arXiv:2006.16236).

    S_t = exp(g_t) S_{t-1} + k_t v_t^T                 state [K, V]
    z_t = exp(g_t) z_{t-1} + k_t                       [K]
    o_t = S_t^T q_t / max(z_t^T q_t, epsilon)

That is eq. 18 to 20, and with a g the fading of random feature attention (Peng et al.
2021, arXiv:2103.02143, sec. 3.2). Queries and keys are features, such as those of
`layers.feature_maps`: z^T q is positive if they all are. z is one more channel of ones
in v, so the forms are those of `scalar_decay`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch
from jaxseq.ops.linear import scalar_decay

__all__ = ["IMPLEMENTATIONS", "LinearAttentionState", "normalized_linear_attention"]


class LinearAttentionState(NamedTuple):
  """Sums of key-value products and of keys. float32."""

  S: Float[Array, "B H K V"]
  z: Float[Array, "B H K"]


def normalized_linear_attention(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"] | None = None,
  *,
  initial_state: LinearAttentionState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  epsilon: float = 1e-6,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], LinearAttentionState]:
  """Reads the mean of the values so far, weighted by products of features.

  Args:
    q: Features of the queries.
    k: Features of the keys.
    v: Values.
    log_decay: Natural log g of the share of both sums kept at each token, <= 0. Not
      checked. None keeps all.
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
  name = "normalized_linear_attention"
  S, z = (None, None) if initial_state is None else initial_state
  q, k, v = chunks.share_heads(q, k, v)
  checks.check_shapes(
    name,
    q=(q, "B T H K"),
    k=(k, "B T H K"),
    v=(v, "B T H V"),
    S=(S, "B H K V"),
    z=(z, "B H K"),
  )
  if log_decay is None:
    log_decay = jnp.zeros(q.shape[:3], jnp.float32)
  state = None if S is None else jnp.concatenate([S, z[..., None]], axis=-1)
  v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
  gates = dict(log_decay=(log_decay, "B T H"))
  inputs = chunks.prepare(name, q, k, v, gates, state, segment_ids, scale)
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, q.shape[1], inputs)
  sums, state = run(inputs)
  sums = sums.astype(state.dtype)
  # At padding both sums are zero.
  total = jnp.where(inputs.valid[..., None, None], sums[..., -1:], 1)
  total = jnp.maximum(total, epsilon)
  o = sums[..., :-1] / total
  return o.astype(v.dtype), LinearAttentionState(state[..., :-1], state[..., -1])


# With S and z side by side.
IMPLEMENTATIONS = scalar_decay.IMPLEMENTATIONS
