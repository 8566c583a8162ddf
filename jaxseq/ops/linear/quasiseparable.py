"""The quasiseparable matrix mixer of Hydra (Hwang et al. 2024, arXiv:2407.09941).

    F_t = exp(f_t) F_{t-1} + k_t v_t^T        from the left            state [K, V]
    G_t = exp(g_t) G_{t+1} + k'_t v_t^T       from the right
    o_t = F_{t-1}^T q_{t-1} + d_t v_t + G_{t+1}^T q'_{t+1}

That is QS(v) = shift(SS(v)) + d v + flip(shift(SS'(flip(v)))) (sec. 3.1), where SS is
the semiseparable mixer `scalar_decay`: what a token reads is what its neighbour on the
left read of the tokens up to and including itself, and its neighbour on the right of
those after. So each token stands in one of the three terms, once:

    M_ij = q_{i-1}^T k_j exp(f_{j+1} + ... + f_{i-1})         if j < i
           d_i                                                if j = i
           q'_{i+1}^T k'_j exp(g_{i+1} + ... + g_{j-1})       if j > i
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form
from jaxseq.ops.linear import bidirectional, scalar_decay

__all__ = ["IMPLEMENTATIONS", "quasiseparable"]


def quasiseparable(
  q: Float[Array, "B T 2 G K"],
  k: Float[Array, "B T 2 G K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T 2 H"],
  diagonal: Float[Array, "B T H"],
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T H V"]:
  """Reads what stands left, what stands right, and the token itself.

  Args:
    q: Queries, those of the reading from the left and those of that from the right. G
      divides H, for q and k alike: neighbouring heads share them.
    k: Keys, likewise.
    v: Values, the same in both directions.
    log_decay: Natural logs f and g of the share of each state kept at each token, <= 0.
      Not checked.
    diagonal: Weight d of the token's own value.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`. There is no state: the whole document is read.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  name = "quasiseparable"
  arrays = dict(q=(q, "B T 2 G K"), k=(k, "B T 2 E K"), v=(v, "B T H V"))
  arrays |= dict(log_decay=(log_decay, "B T 2 H"), diagonal=(diagonal, "B T H"))
  sizes = checks.check_shapes(name, **arrays)
  if sizes["2"] != 2:
    raise ValueError(f"{name} needs q [B, T, 2, G, K]; got shape {q.shape}")

  def direction(n):
    gates = dict(log_decay=(log_decay[:, :, n], "B T H"))
    return chunks.prepare(
      name, q[:, :, n], k[:, :, n], v, gates, None, segment_ids, scale
    )

  left, right = direction(0), direction(1)
  T = v.shape[1]
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, T, left, right)
  o = run(left, right)
  own = segments.clear_padding(diagonal, segment_ids)[..., None] * left.v
  return jnp.where(left.valid[..., None, None], o + own, 0).astype(v.dtype)


def _both_ways(form, left, right):
  """Each direction by a form of `scalar_decay`, moved on by a token."""
  back = bidirectional.reverse(right)
  stacked = jax.tree.map(lambda *x: jnp.stack(x), left._replace(given=None), back)
  o, _ = jax.vmap(form)(stacked)
  from_left, from_right = o.astype(left.state.dtype)
  from_right = jnp.flip(_shift(from_right, back.starts), axis=1)
  return _shift(from_left, left.starts) + from_right


def _shift(o, starts):
  """What stands at the token before in the document; padding in between is zero."""
  before = jnp.pad(o[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
  return jnp.where(starts[..., None, None], 0, before)


IMPLEMENTATIONS = {
  name: Form(functools.partial(_both_ways, form))
  for name, form in (
    ("chunked", scalar_decay.chunked),
    ("parallel", scalar_decay.parallel),
    ("associative", scalar_decay.associative),
    ("recurrent", scalar_decay.recurrent),
  )
}
