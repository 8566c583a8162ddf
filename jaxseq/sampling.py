"""Tokens from a model, one after another."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxseq.typing import State

__all__ = ["generate", "sample"]


def sample(
  key: PRNGKeyArray,
  logits: Float[Array, "B W"],
  *,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
) -> Int[Array, "B"]:
  """Draws the next token of each sequence.

  Args:
    key: Random key.
    logits: Unnormalised log probabilities.
    temperature: What the logits are divided by; 0 takes the most likely token.
    top_k: Only the k most likely tokens are drawn.
    top_p: Only the most likely tokens whose probabilities add up to p are drawn, the
      first that passes p included (nucleus sampling, Holtzman et al. 2019,
      arXiv:1904.09751).

  Raises:
    ValueError: If an option is out of its range.
  """
  _check(logits.shape[-1], temperature, top_k, top_p)
  logits = logits.astype(jnp.float32)
  if temperature == 0:
    return jnp.argmax(logits, axis=-1)
  # The highest is 0 first, so that no temperature, however low, makes an infinity.
  logits = (logits - logits.max(axis=-1, keepdims=True)) / temperature
  if top_k is not None:
    least = jax.lax.top_k(logits, top_k)[0][:, -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if top_p is not None:
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    least = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return jax.random.categorical(key, logits)


def _check(vocab_size, temperature, top_k, top_p):
  if not temperature >= 0:
    raise ValueError(f"sample needs temperature >= 0; got {temperature}")
  if top_k is not None and not 1 <= top_k <= vocab_size:
    raise ValueError(f"sample needs top_k in [1, {vocab_size}]; got {top_k}")
  if top_p is not None and not 0 < top_p <= 1:
    raise ValueError(f"sample needs top_p in (0, 1]; got {top_p}")


@functools.partial(
  jax.jit,
  static_argnames=(
    "apply",
    "num_tokens",
    "temperature",
    "top_k",
    "top_p",
    "stop_token",
  ),
)
def generate(
  apply: Callable,
  params,
  prompt: Int[Array, "B T"],
  state: State,
  key: PRNGKeyArray,
  *,
  num_tokens: int,
  segment_ids: Int[Array, "B T"] | None = None,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  stop_token: int | None = None,
) -> Int[Array, "B N"]:
  """Continues prompts: one call over them, then a loop of single tokens.

  Args:
    apply: `model.apply` of a `models.LanguageModel`, or any function of params, tokens,
      state and segment_ids that gives logits and a state.
    params: Its parameters.
    prompt: Tokens of T >= 1.
    state: `model.initial_state(B)`, or what came before the prompt.
    key: Random key.
    num_tokens: N. A cache that grows must hold T + N tokens.
    segment_ids: Prompts of several lengths: 1 at their tokens and 0 at padding, on
      either side.
    temperature: See `sample`; likewise top_k and top_p.
    stop_token: Ends a sequence, which it then fills up; the loop ends when all have.
      None is no such token.

  Returns:
    The N tokens after each prompt.

  Raises:
    ValueError: If the prompt is empty or an option out of its range.
  """
  if prompt.shape[1] < 1 or num_tokens < 1:
    raise ValueError(
      f"generate needs a prompt and num_tokens of at least 1; "
      f"got {prompt.shape[1]} and {num_tokens}"
    )
  draw = functools.partial(sample, temperature=temperature, top_k=top_k, top_p=top_p)
  logits, state = apply(params, prompt, state, segment_ids=segment_ids)
  last = logits[:, -1]
  if segment_ids is not None:
    T = prompt.shape[1]
    place = T - 1 - (segment_ids[:, ::-1] != 0).argmax(axis=1)
    last = jnp.take_along_axis(logits, place[:, None, None], axis=1)[:, 0]
  new = draw(jax.random.fold_in(key, 0), last).astype(prompt.dtype)
  fill = 0 if stop_token is None else stop_token
  tokens = jnp.full((len(new), num_tokens), fill, new.dtype).at[:, 0].set(new)

  def unfinished(carry):
    i, token, _, _ = carry
    running = True if stop_token is None else jnp.any(token != stop_token)
    return (i < num_tokens) & running

  def step(carry):
    i, token, tokens, state = carry
    logits, state = apply(params, token[:, None], state)
    new = draw(jax.random.fold_in(key, i), logits[:, 0]).astype(token.dtype)
    if stop_token is not None:
      new = jnp.where(token == stop_token, stop_token, new)
    return i + 1, new, tokens.at[:, i].set(new), state

  return jax.lax.while_loop(unfinished, step, (1, new, tokens, state))[2]
