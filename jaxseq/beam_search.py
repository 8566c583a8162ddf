"""The most likely continuations that a narrow search finds.

    score(y) = log p(y) / lp(|y|),      lp(n) = ((5 + n) / 6)^penalty

Left to right, keeping the `beam_size` most likely beginnings (Sutskever et al. 2014,
arXiv:1409.3215, sec. 3.2). The length penalty is that of Wu et al. (2016,
arXiv:1609.08144, eq. 14); 0 ranks by log p, 1 nearly by the mean over the tokens.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.typing import State

__all__ = ["Beams", "beam_search", "log_probabilities", "rescore"]


class Beams(NamedTuple):
  """Continuations of each prompt, the best first.

  Attributes:
    tokens: Filled up with the stop token, or 0.
    scores: -inf where there are fewer sequences than beams.
    lengths: Tokens, the stop token included.
  """

  tokens: Int[Array, "B K N"]
  scores: Float[Array, "B K"]
  lengths: Int[Array, "B K"]


@functools.partial(
  jax.jit,
  static_argnames=(
    *("apply", "beam_size", "num_tokens", "stop_token", "length_penalty"),
    "state_axes",
  ),
)
def beam_search(
  apply: Callable,
  params,
  prompt: Int[Array, "B T"],
  state: State,
  *,
  beam_size: int,
  num_tokens: int,
  stop_token: int | None = None,
  length_penalty: float = 0.0,
  state_axes=1,
) -> Beams:
  """Continues prompts.

  Args:
    apply: `model.apply` of a `models.LanguageModel`, `functools.partial(model.apply,
      method="decode")` of an encoder-decoder, or any function of params, tokens and
      state that gives logits and a state.
    params: Its parameters.
    prompt: Tokens of T >= 1, such as the one that begins a sentence.
    state: `model.initial_state(B)`, `model.apply(..., method="encode")`, or what came
      before the prompt.
    beam_size: K, beginnings kept at each token.
    num_tokens: N, tokens after which a sequence is cut off.
    stop_token: Ends a sequence. Those that ended stand before those cut off. The search
      ends when none that goes on can score higher than K that ended. None is no such
      token.
    length_penalty: At least 0.
    state_axes: Where the arrays of the state have their batch axis: a number, or a tree
      of them that is a prefix of the state, as in `jax.vmap`. 1 is right for a
      `LanguageModel`; other models say it in `STATE_AXES`.

  Raises:
    ValueError: If an option is out of its range.
  """
  if min(prompt.shape[1], beam_size, num_tokens) < 1 or not length_penalty >= 0:
    raise ValueError(
      "beam_search needs a prompt, beam_size and num_tokens of at least 1 and "
      f"length_penalty >= 0; got {prompt.shape[1]}, {beam_size}, {num_tokens} and "
      f"{length_penalty}"
    )
  B, K, N = len(prompt), beam_size, num_tokens
  penalty = lambda length: ((5 + length) / 6) ** length_penalty
  next_log_p, state = _begin(apply, params, prompt, state, K, state_axes)
  fill = 0 if stop_token is None else stop_token
  none = Beams(
    jnp.full((B, K, N), fill, prompt.dtype),
    jnp.full((B, K), -jnp.inf),
    jnp.zeros((B, K), jnp.int32),
  )
  # All are still the same beginning, which is to be counted once.
  alive = none._replace(scores=none.scores.at[:, 0].set(0))

  def extend(i, alive, ended, next_log_p):
    """One more token for the best; their parents; and those that it ended."""
    W = next_log_p.shape[-1]
    log_p, place = jax.lax.top_k(
      (alive.scores[..., None] + next_log_p).reshape(B, K * W), min(2, W) * K
    )
    # A parent ends in one way, so that of 2 K candidates at least K go on.
    parent, token = place // W, (place % W).astype(prompt.dtype)
    tokens = _pick(alive.tokens, parent).at[:, :, i].set(token)
    stops = token == (-1 if stop_token is None else stop_token)
    lengths = jnp.full_like(parent, i + 1)
    scores = jnp.where(stops, log_p / penalty(i + 1), -jnp.inf)
    ended, _ = _best(_join(ended, Beams(tokens, scores, lengths)), K)
    going = Beams(tokens, jnp.where(stops, -jnp.inf, log_p), lengths)
    alive, place = _best(going, K)
    return alive, ended, _pick(parent, place)

  def unfinished(carry):
    i, alive, ended, _, _ = carry
    # Log p only falls, and no length has a larger penalty than N.
    possible = alive.scores.max(axis=1) / penalty(N)
    return (i < N) & jnp.any(ended.scores.min(axis=1) < possible)

  def step(carry):
    i, alive, ended, parent, state = carry
    rows = (jnp.arange(B)[:, None] * K + parent).reshape(-1)
    state = _along(state_axes, state, lambda s, axis: jnp.take(s, rows, axis))
    token = alive.tokens[:, :, i - 1].reshape(-1, 1)
    logits, state = apply(params, token, state)
    next_log_p = jax.nn.log_softmax(logits[:, 0]).reshape(B, K, -1)
    return i + 1, *extend(i, alive, ended, next_log_p), state

  carry = (1, *extend(0, alive, none, next_log_p), state)
  _, alive, ended, _, _ = jax.lax.while_loop(unfinished, step, carry)
  cut_off = alive._replace(scores=alive.scores / penalty(N))
  number = jnp.sum(ended.scores > -jnp.inf, axis=1, keepdims=True)
  place = jnp.arange(K)
  place = jnp.where(place < number, place, K + place - number)
  return _pick(_join(ended, cut_off), place)


@functools.partial(jax.jit, static_argnames=("apply", "stop_token", "state_axes"))
def log_probabilities(
  apply: Callable,
  params,
  prompt: Int[Array, "B T"],
  state: State,
  tokens: Int[Array, "B K N"],
  *,
  stop_token: int | None = None,
  state_axes=1,
) -> Float[Array, "B K"]:
  """Natural log p of given continuations, up to and including their stop tokens.

  Args:
    apply: As for `beam_search`; likewise what follows but the tokens.
    params: Its parameters.
    prompt: Tokens of T >= 1.
    state: What came before the prompt.
    tokens: K continuations of each prompt; what stands after a stop token is ignored.
    stop_token: Or None.
    state_axes: Where the state has its batch axis.
  """
  B, K, N = tokens.shape
  first, state = _begin(apply, params, prompt, state, K, state_axes)
  log_p = first[:, :, None]
  if N > 1:
    logits, _ = apply(params, tokens[:, :, :-1].reshape(B * K, N - 1), state)
    later = jax.nn.log_softmax(logits).reshape(B, K, N - 1, -1)
    log_p = jnp.concatenate([log_p, later], axis=2)
  log_p = jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
  stops = tokens == (-1 if stop_token is None else stop_token)
  before = jnp.cumsum(stops, axis=-1) - stops
  return jnp.sum(jnp.where(before == 0, log_p, 0), axis=-1)


def rescore(
  apply: Callable,
  params,
  prompt: Int[Array, "B T"],
  state: State,
  beams: Beams,
  *,
  weight: float = 0.5,
  **options,
) -> Beams:
  """Ranks the continuations that another system found by both systems' scores.

      (1 - weight) score(y) + weight log p(y)

  Args:
    apply: As for `beam_search`; likewise what follows but the beams.
    params: Its parameters.
    prompt: Tokens of T >= 1.
    state: What came before the prompt.
    beams: The other system's.
    weight: Of our log p. The even mean is that of Sutskever et al. (sec. 3.2).
    **options: `stop_token` and `state_axes`.
  """
  ours = log_probabilities(apply, params, prompt, state, beams.tokens, **options)
  scores = (1 - weight) * beams.scores + weight * ours
  return _best(beams._replace(scores=scores), scores.shape[1])[0]


def _begin(apply, params, prompt, state, num_beams, state_axes):
  """Log p of the first token [B, K, W] and the state after the prompt, K times each."""
  logits, state = apply(params, prompt, state)
  log_p = jax.nn.log_softmax(logits[:, -1])[:, None]
  repeat = lambda s, axis: jnp.repeat(s, num_beams, axis)
  return jnp.repeat(log_p, num_beams, axis=1), _along(state_axes, state, repeat)


def _along(axes, state, function):
  """Applies a function of an array and its batch axis to the whole state."""
  return jax.tree.map(function, state, jax.tree.broadcast(axes, state))


def _pick(tree, place):
  """From [B, M, ...] those of the M at `place` [B, K]."""
  expand = lambda x: place.reshape(*place.shape, *[1] * (x.ndim - 2))
  return jax.tree.map(lambda x: jnp.take_along_axis(x, expand(x), axis=1), tree)


def _best(beams, number):
  """The `number` of highest scores, in order, and their places."""
  place = jax.lax.top_k(beams.scores, number)[1]
  return _pick(beams, place), place


def _join(a, b):
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), a, b)
