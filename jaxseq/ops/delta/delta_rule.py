"""The delta rule (DeltaNet, Schlag et al. 2021, arXiv:2102.11174, eq. 24).

    S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
    o_t = S_t^T q_t                                          state [K, V]

It is a step of gradient descent, of size beta_t, on |S^T k_t - v_t|^2 / 2; its chunked
form is that of Yang et al. 2024 (arXiv:2406.06484, sec. 3.2), `gated_delta_rule` at a
decay of one.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.delta import gated_delta_rule
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "delta_rule"]


def delta_rule(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  beta: Float[Array, "B T H"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Replaces what is stored under a key by a new value.

  Args:
    q: Queries.
    k: Keys, of length 1 (or less, if beta is less than 2 / |k|^2): longer ones let the
      state grow. Not checked.
    v: Values.
    beta: How much of the old value is replaced: 0 none, 1 all, 2 reflects.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(beta=(beta, "B T H"))
  inputs = chunks.prepare(
    "delta_rule", q, k, v, gates, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select("delta_rule", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, beta):
    read = jnp.einsum("bhk,bhkv->bhv", k, S, precision="highest")
    u = beta[..., None] * (v - read)
    return S + k[..., None] * u[..., None, :]

  return chunks.by_token(update, inputs)


def _no_decay(inputs):
  (beta,) = inputs.gates
  return jnp.zeros_like(beta), beta


IMPLEMENTATIONS = {
  **{
    name: chunks.with_gates(gated_delta_rule.IMPLEMENTATIONS[name], _no_decay)
    for name in ("pallas_tpu", "pallas_gpu", "chunked")
  },
  "pallas_gpu_step": chunks.by_step("beta"),
  "recurrent": Form(recurrent),
}
