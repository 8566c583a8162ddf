"""Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236, eq. 18 to 20).

    S_t = S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t            state [K, V]

The feature map of queries and keys and the normaliser, where a paper has them, are the
caller's: a normaliser is one more channel of ones in v.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.dispatch import Form
from jaxseq.ops.linear import scalar_decay

__all__ = ["IMPLEMENTATIONS", "linear_attention"]


def linear_attention(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Reads a sum of key-value products with queries.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  inputs = chunks.prepare(
    "linear_attention", q, k, v, {}, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select("linear_attention", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition."""
  return chunks.by_token(lambda S, k, v: S + k[..., None] * v[..., None, :], inputs)


def _no_decay(inputs):
  return (jnp.zeros(inputs.q.shape[:3]),)


IMPLEMENTATIONS = {
  name: chunks.with_gates(form, _no_decay)
  for name, form in scalar_decay.IMPLEMENTATIONS.items()
  if name != "recurrent"
} | {"recurrent": Form(recurrent)}
