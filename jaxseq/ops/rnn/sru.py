"""The simple recurrent unit (Lei et al. 2017, arXiv:1709.02755v5, eq. 1 to 4).

    f_t = sigmoid(u^f_t + v^f * c_{t-1})
    c_t = f_t * c_{t-1} + (1 - f_t) * u_t
    r_t = sigmoid(u^r_t + v^r * c_{t-1})
    h_t = r_t * c_t + (1 - r_t) * s_t               all elementwise; state [N]

The forget gate sees its own channel of the state, so that no sum over time gives c; no
channel sees another, so that a step has no product of matrices. With v = 0 this is
`diagonal_recurrence`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, dispatch, segments
from jaxseq.ops.dispatch import Form
from jaxseq.ops.rnn import cells

__all__ = ["IMPLEMENTATIONS", "sru"]


def sru(
  u: Float[Array, "B T N"],
  forget: Float[Array, "B T N"],
  reset: Float[Array, "B T N"],
  skip: Float[Array, "B T N"],
  peepholes: Float[Array, "2 N"],
  *,
  initial_state: Float[Array, "B N"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T N"], Float[Array, "B N"]]:
  """Pools candidates under a gate that sees the pool, beside a highway.

  Args:
    u: Candidates.
    forget: The input's part u^f of the forget gates, before the sigmoid.
    reset: The input's part u^r of the highway's gates, before the sigmoid.
    skip: What the highway carries, s.
    peepholes: v^f and v^r, the weights of the state in the gates.
    initial_state: c before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto". No form but the recurrent one
      is exact.

  Returns:
    h of all tokens in the dtype of `u`, and the last c in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  sizes = checks.check_shapes(
    "sru",
    u=(u, "B T N"),
    forget=(forget, "B T N"),
    reset=(reset, "B T N"),
    skip=(skip, "B T N"),
    initial_state=(initial_state, "B N"),
    segment_ids=(segment_ids, "B T"),
  )
  B, T, N = (sizes[letter] for letter in "BTN")
  if peepholes.shape != (2, N):
    raise ValueError(
      f"sru needs peepholes [2, N] = {(2, N)}; got shape {peepholes.shape}"
    )
  kind = jnp.promote_types(u.dtype, jnp.float32)
  state = jnp.zeros((B, N)) if initial_state is None else initial_state
  arrays = [
    segments.clear_padding(x, segment_ids).astype(kind)
    for x in (u, forget, reset, skip)
  ]
  if segment_ids is None:
    segment_ids = jnp.ones((B, T), jnp.int32)
  args = (*arrays, peepholes.astype(kind), state.astype(kind))
  args = (*args, segments.parse(segment_ids))
  run = dispatch.select("sru", IMPLEMENTATIONS, implementation, T, *args)
  h, last = run(*args)
  return h.astype(u.dtype), last


def recurrent(u, forget, reset, skip, peepholes, state, parsed):
  """The definition. The highway's gates need no loop once all c are known."""
  forget_peephole, reset_peephole = peepholes

  def step(state, token):
    u, forget, valid, start = token
    before = jnp.where(start[:, None], 0, state)
    f = jax.nn.sigmoid(forget + forget_peephole * before)
    c = jnp.where(valid[:, None], f * before + (1 - f) * u, state)
    return c, (before, c)

  tokens = jax.tree.map(
    lambda x: x.swapaxes(0, 1), (u, forget, parsed.valid, parsed.starts)
  )
  last, (before, c) = jax.lax.scan(
    step, state, tokens, unroll=cells.UNROLL[dispatch.platform()]
  )
  before, c = before.swapaxes(0, 1), c.swapaxes(0, 1)
  r = jax.nn.sigmoid(reset + reset_peephole * before)
  return jnp.where(parsed.valid[..., None], r * c + (1 - r) * skip, 0), last


IMPLEMENTATIONS = {"recurrent": Form(recurrent)}
