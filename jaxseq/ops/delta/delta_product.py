"""Several steps of the delta rule a token (DeltaProduct, Siems et al. 2025,
arXiv:2502.10297, sec. 3).

    S_t0 = exp(g_t) S_{t-1},    S_t = S_tn,    o_t = S_t^T q_t       state [K, V]
    S_tj = (I - beta_tj k_tj k_tj^T) S_t,j-1 + beta_tj k_tj v_tj^T   j = 1 .. n

The transition is a product of n generalised Householder matrices, which
can be any rotation for n large enough. Its chunked form and its kernels are those of
`gated_delta_rule` over n T virtual tokens, of which each nth is read and each first
decays.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch
from jaxseq.ops.delta import gated_delta_rule
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "delta_product"]


def delta_product(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T n H K"],
  v: Float[Array, "B T n H V"],
  log_decay: Float[Array, "B T H"] | None,
  beta: Float[Array, "B T n H"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Replaces n values under n keys at each token, one after another.

  Args:
    q: Queries.
    k: Keys of the n steps, of length 1 (or less, if beta is less than 2 / |k|^2). Not
      checked.
    v: Values of the n steps.
    log_decay: Natural log g of the share of the state kept at each token, <= 0. Not
      checked. None keeps all.
    beta: How much of the old value each step replaces: 0 none, 1 all, 2 reflects.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  sizes = checks.check_shapes(
    "delta_product",
    q=(q, "B T H K"),
    k=(k, "B T n H K"),
    v=(v, "B T n H V"),
    log_decay=(log_decay, "B T H"),
    beta=(beta, "B T n H"),
    initial_state=(initial_state, "B H K V"),
    segment_ids=(segment_ids, "B T"),
  )
  n = sizes["n"]
  if log_decay is None:
    log_decay = jnp.zeros(q.shape[:3], beta.dtype)
  at = lambda x, j: jnp.pad(x[:, :, None], [(0, 0), (0, 0), (j, n - 1 - j), *_rest(x)])
  q, k, v, log_decay, beta = (
    x.reshape(x.shape[0], -1, *x.shape[3:])
    for x in (at(q, n - 1), k, v, at(log_decay, 0), beta)
  )
  if segment_ids is not None:
    segment_ids = jnp.repeat(segment_ids, n, axis=1)
  gates = dict(log_decay=(log_decay, "B T H"), beta=(beta, "B T H"))
  inputs = chunks.prepare(
    "delta_product", q, k, v, gates, initial_state, segment_ids, scale
  )
  forms, T = IMPLEMENTATIONS, sizes["T"]
  run = dispatch.select("delta_product", forms, implementation, T, inputs, n)
  return run(inputs, n)


def _rest(x):
  return [(0, 0)] * (x.ndim - 2)


def recurrent(inputs, n):
  """The definition: n steps, then a read."""
  q, k, v, (g, beta), S, valid, starts, _ = inputs

  def token(S, steps):
    q, k, v, g, beta, start = steps  # [n, B, ...]
    S = jnp.where(start[0, :, None, None, None], 0, S) * jnp.exp(g[0])[..., None, None]
    for j in range(n):
      read = jnp.einsum("bhk,bhkv->bhv", k[j], S, precision="highest")
      u = beta[j, ..., None] * (v[j] - read)
      S = S + k[j, ..., None] * u[..., None, :]
    return S, jnp.einsum("bhk,bhkv->bhv", q[-1], S, precision="highest")

  tokens = (*(x.astype(S.dtype) for x in (q, k, v)), g, beta, starts)
  by_token = lambda x: x.swapaxes(0, 1).reshape(-1, n, x.shape[0], *x.shape[2:])
  S, o = jax.lax.scan(token, S, jax.tree.map(by_token, tokens))
  o = jnp.where(valid[:, ::n, None, None], o.swapaxes(0, 1), 0)
  return o.astype(v.dtype), S


def _virtual(form):
  """A form of `gated_delta_rule`, over virtual tokens."""

  def run(inputs, n):
    o, S = form.run(inputs)
    return o[:, n - 1 :: n], S

  return Form(run, lambda inputs, n: form.refusal(inputs))


IMPLEMENTATIONS = {
  **{
    name: _virtual(gated_delta_rule.IMPLEMENTATIONS[name])
    for name in ("pallas_tpu", "pallas_gpu", "chunked")
  },
  "recurrent": Form(recurrent),
}
