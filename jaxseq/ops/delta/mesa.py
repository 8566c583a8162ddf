"""The Mesa layer: ridge regression of all values so far on their keys.

    A_t = exp(g_t) A_{t-1} + beta_t k_t k_t^T                state [K, K]
    B_t = exp(g_t) B_{t-1} + beta_t k_t v_t^T                      [K, V]
    o_t = B_t^T (A_t + diag(r))^-1 q_t

(Von Oswald et al. 2023, arXiv:2309.05858; gated: MesaNet, von Oswald et al. 2025,
arXiv:2506.05233.) o_t is Phi q_t, where Phi minimises

    sum_i beta_i exp(g_{i+1} + ... + g_t) |v_i - Phi k_i|^2 + |Phi diag(r)^1/2|^2

A delta rule makes one step towards the newest value; this goes all the way, for all
values at once.

A and B side by side are a scalar decay of values (k, v). Its chunked form gives
A_t x without any A_t, and conjugate gradients need no more (MesaNet).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "MesaState", "mesa"]


class MesaState(NamedTuple):
  """Fading sums of the products of keys with keys, and with values. float32."""

  A: Float[Array, "B H K K"]
  B: Float[Array, "B H K V"]


def mesa(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"] | None,
  beta: Float[Array, "B T H"],
  ridge: Float[Array, "H K"],
  *,
  initial_state: MesaState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  max_steps: int | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], MesaState]:
  """Predicts a query's value by the ridge regression of all values on their keys.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    log_decay: Natural log g of the share of the sums kept at each token, <= 0. Not
      checked. None keeps all.
    beta: Weight of each token, >= 0. Not checked.
    ridge: r, > 0. Not checked. The smaller against the sums, the more steps it takes.
    initial_state: Sums before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. 1 if None: outputs are predictions of values.
    max_steps: Most steps of conjugate gradients, in the chunked form. MesaNet takes 30.
      None goes on until only rounding is left, as the other forms do.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last sums.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  A, B = (None, None) if initial_state is None else initial_state
  q, k, v = chunks.share_heads(q, k, v)
  checks.check_shapes(
    "mesa",
    q=(q, "B T H K"),
    k=(k, "B T H K"),
    v=(v, "B T H V"),
    ridge=(ridge, "H K"),
    **{"initial_state.A": (A, "B H K K"), "initial_state.B": (B, "B H K V")},
  )
  kv = jnp.concatenate([k, v], axis=-1)
  state = None if A is None else jnp.concatenate([A, B], axis=-1)
  gates = dict(log_decay=(log_decay, "B T H"), beta=(beta, "B T H"))
  if log_decay is None:
    del gates["log_decay"]
  scale = 1.0 if scale is None else scale
  inputs = chunks.prepare("mesa", q, k, kv, gates, state, segment_ids, scale)
  args = inputs, ridge.astype(inputs.state.dtype), max_steps
  run = dispatch.select("mesa", IMPLEMENTATIONS, implementation, q.shape[1], *args)
  o, S = run(*args)
  return o.astype(v.dtype), MesaState(*jnp.split(S, [k.shape[-1]], axis=-1))


def recurrent(inputs, ridge, max_steps):
  """The definition, with A and B side by side in S."""
  del max_steps
  q, k, kv, gates, S, valid, starts, _ = inputs
  K = q.shape[-1]

  def step(S, token):
    q, k, kv, *g, beta, start = token
    S = jnp.where(start[:, None, None, None], 0, S)
    S = jnp.exp(g[0])[..., None, None] * S if g else S
    S += beta[..., None, None] * k[..., None] * kv[..., None, :]
    A, B = jnp.split(S, [K], axis=-1)
    x = jax.scipy.linalg.solve(
      A + ridge[..., None] * jnp.eye(K), q[..., None], assume_a="pos"
    )
    return S, jnp.einsum("bhk,bhkv->bhv", x[..., 0], B, precision="highest")

  tokens = (*(x.astype(S.dtype) for x in (q, k, kv)), *gates, starts)
  S, o = jax.lax.scan(step, S, jax.tree.map(lambda x: x.swapaxes(0, 1), tokens))
  return jnp.where(valid[..., None, None], o.swapaxes(0, 1), 0), S


def sherman_morrison(inputs, ridge, max_steps):
  """Carries R_t = (A_t + diag(r))^-1, which a token changes by a product of vectors.

      R_t = R_{t-1} - beta_t R_{t-1} k_t k_t^T R_{t-1} / (1 + beta_t k_t^T R_{t-1} k_t)

  A decay would shrink A but not r, which is a change of full rank.
  """
  del max_steps
  q, k, kv, (beta,), S, valid, starts, _ = inputs
  K = q.shape[-1]
  first = jnp.zeros_like(S[..., :K]) + ridge[..., None] ** -1 * jnp.eye(K)
  product = functools.partial(jnp.einsum, precision="highest")

  def step(carry, token):
    S, R = carry
    q, k, kv, beta, start = token
    start = start[:, None, None, None]
    S, R = jnp.where(start, 0, S), jnp.where(start, first, R)
    S += beta[..., None, None] * k[..., None] * kv[..., None, :]
    Rk, kR = product("bhij,bhj->bhi", R, k), product("bhi,bhij->bhj", k, R)
    share = beta / (1 + beta * jnp.sum(k * Rk, axis=-1))
    R -= share[..., None, None] * Rk[..., None] * kR[..., None, :]
    x = product("bhij,bhj->bhi", R, q)
    return (S, R), product("bhk,bhkv->bhv", x, S[..., K:])

  R = jnp.linalg.inv(S[..., :K] + ridge[..., None] * jnp.eye(K))
  tokens = (*(x.astype(S.dtype) for x in (q, k, kv)), beta, starts)
  tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), tokens)
  (S, _), o = jax.lax.scan(step, (S, R), tokens)
  return jnp.where(valid[..., None, None], o.swapaxes(0, 1), 0), S


def chunked(inputs, ridge, max_steps):
  """All tokens of many chunks at once by conjugate gradients.

  The states go from chunk to chunk as in `scalar_decay`; the backward pass makes each
  group of chunks again from the state it began with.
  """
  q, k, kv, gates, S, valid, starts, _ = inputs
  g, beta = gates if len(gates) == 2 else (jnp.zeros_like(gates[0]), gates[0])
  T, K = q.shape[1], q.shape[-1]
  size = chunks.size_for(T)
  count = -(-T // size)
  groups = -(-count // chunks.GROUP_SIZE[dispatch.platform()])

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def group(S, tokens):
    q, k, kv, g, beta, valid, starts = tokens
    mask = chunks.masks(starts, valid)
    decay = chunks.segment_sums(g)
    weights = chunks.masked_exp(decay, mask.causal) * beta[..., None, :]
    since_start = jnp.exp(jnp.cumsum(g, axis=-1)) * mask.from_state
    to_end = beta * jnp.exp(decay[..., -1, :]) * mask.to_state
    keeps = jnp.exp(jnp.sum(g, axis=-1, keepdims=True)) * mask.keeps
    # In float32 whatever the inputs are, or A would not be symmetric.
    late = to_end[..., None] * k
    writes = chunks.product("...jk,...jv->...kv", late, kv, like=g)
    advance = functools.partial(chunks.advance, like=kv)
    S, before = jax.lax.scan(advance, S, (keeps, writes, None, None))
    A, B = jnp.split(before, [K], axis=-1)

    x = _solve(q, k, weights, since_start, A, ridge, max_steps)
    scores = chunks.product("...ik,...jk->...ij", x, k, like=kv) * weights
    o = chunks.product("...ij,...jv->...iv", scores, kv[..., K:], like=kv)
    o += chunks.product("...ik,...kv->...iv", since_start[..., None] * x, B, like=kv)
    return S, o.astype(kv.dtype)

  arrays = q, k, kv, g, beta, valid[:, :, None], starts[:, :, None]
  cut = functools.partial(
    chunks.cut, groups=groups, number=-(-count // groups), size=size
  )
  S, o = jax.lax.scan(group, S, jax.tree.map(cut, arrays))
  return jnp.where(valid[..., None, None], chunks.join(o, T), 0), S


def _solve(q, k, weights, since_start, A, ridge, max_steps):
  """x_i = (A_i + diag(r))^-1 q_i,   A_i = since_start_i A + sum_j weights_ij k_j k_j^T

  The gradient solves the same equations again, and keeps nothing of the steps.
  """
  kind = A.dtype
  product = functools.partial(jnp.matmul, precision="highest")

  def solve(apply, b):
    """By conjugate gradients. They square b, and a small gradient would underflow."""
    size = jnp.max(jnp.abs(b))
    size = jnp.where(size > jnp.finfo(kind).tiny, size, 1)
    options = dict(tol=jnp.finfo(kind).eps, maxiter=max_steps)
    return size * jax.scipy.sparse.linalg.cg(apply, b / size, **options)[0]

  def of_token(q, k, weights, since_start, A, ridge):
    def apply(x):
      return (
        ridge * x + since_start * product(A, x) + product(weights * product(k, x), k)
      )

    return jax.lax.custom_linear_solve(apply, q, solve, symmetric=True)

  of_chunks = jnp.vectorize(of_token, signature="(k),(c,k),(c),(),(k,k),(k)->(k)")
  q, k = q.astype(kind), k.astype(kind)[..., None, :, :]
  return of_chunks(q, k, weights, since_start, A[..., None, :, :], ridge[:, None])


def _cannot_fade(inputs, ridge, max_steps):
  del ridge, max_steps
  return "it takes no log_decay" if len(inputs.gates) == 2 else None


IMPLEMENTATIONS = {
  "chunked": Form(chunked),
  "recurrent": Form(recurrent),
  "sherman_morrison": Form(sherman_morrison, refusal=_cannot_fade),
}
