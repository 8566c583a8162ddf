"""The weighted average of RWKV-4 (Peng et al. 2023, arXiv:2305.13048, sec. 3.1).

    o_t = (a_{t-1} + exp(u + k_t) v_t) / (b_{t-1} + exp(u + k_t))
    a_t = exp(g) a_{t-1} + exp(k_t) v_t              elementwise; state [D], [D]
    b_t = exp(g) b_{t-1} + exp(k_t)

Attention that needs no queries: past tokens weigh exp(k), less with time, the current
one exp(u + k). The sums are stored as a = exp(m) n and b = exp(m) d with the largest
exponent m that is in them, so that nothing overflows:

    m_t = max(m_{t-1} + g, k_t)
    n_t = exp(m_{t-1} + g - m_t) n_{t-1} + exp(k_t - m_t) v_t,    d_t likewise

A stretch of tokens is such a triple with the sum of its g; stretches compose, so that a
tree can sum them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, checks, dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = ["EMPTY", "IMPLEMENTATIONS", "WKVState", "wkv"]

CHUNK_SIZE = 256  # Tokens whose tree of sums is held at one time.
EMPTY = -1e30  # The exponent of a sum of nothing. Infinity less itself is no number.


class WKVState(NamedTuple):
  """The sums over past tokens, float32; exp(maximum) is left out of the first two."""

  numerator: Float[Array, "B D"]
  denominator: Float[Array, "B D"]
  maximum: Float[Array, "B D"]


def wkv(
  k: Float[Array, "B T D"],
  v: Float[Array, "B T D"],
  log_decay: Float[Array, "D"],
  bonus: Float[Array, "D"],
  *,
  initial_state: WKVState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T D"], WKVState]:
  """Averages each channel of the values, past ones at weights that fade.

  Args:
    k: Logarithms of the weights.
    v: Values.
    log_decay: Natural log g of what is left of a weight at each token, <= 0. Not
      checked.
    bonus: What is added to k for the current token, u.
    initial_state: State before the first token. Sums of nothing if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Averages in the dtype of `v`, and the last state.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  parts = (None,) * 3 if initial_state is None else initial_state
  names = (f"initial_state.{name}" for name in WKVState._fields)
  sizes = checks.check_shapes(
    "wkv",
    k=(k, "B T D"),
    v=(v, "B T D"),
    log_decay=(log_decay, "D"),
    bonus=(bonus, "D"),
    **{name: (part, "B D") for name, part in zip(names, parts)},
    segment_ids=(segment_ids, "B T"),
  )
  B, T, D = (sizes[letter] for letter in "BTD")
  kind = jnp.promote_types(v.dtype, jnp.float32)
  if initial_state is None:
    state = empty((B, D), kind)
  else:
    state = WKVState(*(part.astype(kind) for part in parts))
  if segment_ids is None:
    segment_ids = jnp.ones((B, T), jnp.int32)
  parsed = segments.parse(segment_ids)
  valid, start = parsed.valid[..., None], parsed.starts[..., None]
  # Padding is a sum of nothing and lets nothing fade; a new document lets all fade.
  tokens = WKVState(
    jnp.where(valid, v.astype(kind), 0),
    jnp.broadcast_to(valid, (B, T, D)).astype(kind),
    jnp.where(valid, k.astype(kind), EMPTY),
  )
  fades = jnp.where(valid, jnp.where(start, EMPTY, log_decay.astype(kind)), 0)
  run = dispatch.select("wkv", IMPLEMENTATIONS, implementation, T, fades, tokens, state)
  before, last = run(fades, tokens, state)
  before = jax.tree.map(lambda x, e: jnp.where(start, e, x), before, empty((), kind))
  seen = add(before, tokens._replace(maximum=tokens.maximum + bonus.astype(kind)))
  o = jnp.where(valid, seen.numerator / jnp.where(valid, seen.denominator, 1), 0)
  return o.astype(v.dtype), last


def empty(shape, kind) -> WKVState:
  """Sums of nothing."""
  zeros = jnp.zeros(shape, kind)
  return WKVState(zeros, zeros, jnp.full(shape, EMPTY, kind))


def add(first: WKVState, then: WKVState) -> WKVState:
  """The sums over both."""
  top = jnp.maximum(first.maximum, then.maximum)
  p, q = jnp.exp(first.maximum - top), jnp.exp(then.maximum - top)
  return WKVState(
    p * first.numerator + q * then.numerator,
    p * first.denominator + q * then.denominator,
    top,
  )


def fade(fades, sums: WKVState) -> WKVState:
  """The sums some tokens later."""
  return sums._replace(maximum=sums.maximum + fades)


def recurrent(fades, tokens, state):
  """The definition; the states before each token, and the last."""

  def step(state, token):
    fades, token = token
    return add(fade(fades, state), token), state

  by_time = jax.tree.map(lambda x: x.swapaxes(0, 1), (fades, tokens))
  last, before = jax.lax.scan(step, state, by_time)
  return jax.tree.map(lambda x: x.swapaxes(0, 1), before), last


def associative(fades, tokens, state):
  """All stretches from the first token on, composed by a tree."""

  def compose(first, then):
    (f, x), (g, y) = first, then
    return f + g, add(fade(g, x), y)

  faded, sums = jax.lax.associative_scan(compose, (fades, tokens), axis=1)
  first = jax.tree.map(lambda x: x[:, None], state)
  after = add(fade(faded, first), sums)
  shift = lambda s, x: jnp.concatenate([s, x[:, :-1]], axis=1)
  return jax.tree.map(shift, first, after), jax.tree.map(lambda x: x[:, -1], after)


def chunked(fades, tokens, state):
  """`associative` within blocks of `CHUNK_SIZE`, `recurrent` from block to block.

  The backward pass makes the tree of each block again.
  """
  T = fades.shape[1]
  size = min(CHUNK_SIZE, T)

  @jax.checkpoint
  def step(state, block):
    before, state = associative(*block, state)
    return state, before

  parts = [blocks.split(x, size, fill) for x, fill in zip(tokens, (0, 0, EMPTY))]
  last, before = jax.lax.scan(
    step, state, (blocks.split(fades, size), WKVState(*parts))
  )
  return blocks.join(before, T), last


def _on_cpu(fades, tokens, state):
  """A CPU has no width to gain from a tree, which does twice the work of the loop."""
  return dispatch.platform() == "cpu"


IMPLEMENTATIONS = {
  "chunked": Form(chunked, slow=_on_cpu),
  "associative": Form(associative, slow=_on_cpu),
  "recurrent": Form(recurrent),
}
