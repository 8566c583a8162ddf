"""N-gram lookup (Jelassi et al. 2024, "Repeat After Me", arXiv:2402.01032).

    suffix   inputs   d a b c e a | b c e        "b c" is looked up, 2 letters asked
             targets  . . . . . . . . e a        T = 10
    prefix   inputs   a b | d a b c e | c
             targets  . . . . . . . . c e        only these count

A piece of a random string is given, after the string or before it, and the letters that
follow the piece there are asked for. With the key before it, a mixer knows what to look
for and need not remember the string. If the piece stands in the string twice, the first
place counts, as in the authors' code.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["NgramLookupConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class NgramLookupConfig:
  """The task.

  Attributes:
    vocab_size: W: letters, and "|", W - 1.
    key: "suffix", the piece stands after the string, or "prefix", before it.
    key_length: Letters of the piece.
    answer_length: Letters asked for.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 27
  key: str = "suffix"
  key_length: int = 3
  answer_length: int = 4
  held_out_examples: int = 1024

  @property
  def chance(self) -> float:
    return 1 / (self.vocab_size - 1)

  def __post_init__(self):
    checks.check_one_of("ngram_lookup", ("suffix", "prefix"), key=self.key)
    checks.check_at_least("ngram_lookup", 3, vocab_size=self.vocab_size)
    checks.check_at_least(
      "ngram_lookup",
      1,
      key_length=self.key_length,
      answer_length=self.answer_length,
      held_out_examples=self.held_out_examples,
    )


def example(
  key: PRNGKeyArray, config: NgramLookupConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  n, m, prefix = config.key_length, config.answer_length, config.key == "prefix"
  size = length - n - m - prefix  # Of the string.
  string_key, place_key = jax.random.split(key)
  string = jax.random.randint(string_key, (size,), 0, config.vocab_size - 1)
  pieces = string[jnp.arange(size - n - m + 1)[:, None] + jnp.arange(n)]
  piece = pieces[jax.random.randint(place_key, (), 0, len(pieces))]
  first = (pieces == piece).all(axis=1).argmax()
  answer = jax.lax.dynamic_slice(string, (first + n,), (m,))
  bar = jnp.array([config.vocab_size - 1])
  parts = [piece, bar, string, bar] if prefix else [string, bar, piece]
  ask = jnp.arange(length) >= length - m
  return dict(
    inputs=jnp.concatenate([*parts, answer[:-1]]),
    targets=jnp.zeros(length, jnp.int32).at[-m:].set(answer),
    weights=ask.astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: NgramLookupConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least twice key and answer, and one more if the key is a prefix.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If the string would be shorter than key and answer.
  """
  least = 2 * (config.key_length + config.answer_length) + (config.key == "prefix")
  checks.check_at_least("ngram_lookup", least, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
