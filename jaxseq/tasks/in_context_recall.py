"""MAD's three tasks of recall (Poli et al. 2024, arXiv:2403.17844; code: mad-lab).

    in_context   inputs   a 5 b 7 a 5 c 6 b       keys abc, values 567, noise xy
                 targets  . . . . 5 . . . 7       only these count
    noisy        inputs   a 5 x y b 7 a 5 b
                 targets  . . . . . . 5 . 7
    fuzzy        inputs   a b 5 6 c 7 a b 5       a key is "a b", its value "5 6"
                 targets  . . . . . . . 5 6

A sequence is a run of pairs, each key drawn from all keys, its value fixed where it
first occurs. Unlike mqar, where pairs come first and each is asked for once, a value is
asked for wherever its key has occurred before. The last pair always is such a one. With
fuzzy recall keys and values are groups of 1 to a few tokens; with noise some pairs are
hidden behind ids of their own part of the vocabulary.

As in the authors' code with many queries, but for: tokens may occur twice in a group;
keys are of any size when held out too; and in training, too, only the values count.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["FuzzyRecallConfig", "InContextRecallConfig", "NoisyRecallConfig", "batch"]

PAD = 0


@dataclasses.dataclass(frozen=True)
class InContextRecallConfig:
  """The task.

  Attributes:
    vocab_size: W: 0 is padding, at the beginning; then keys, values (as many, or one
      more) and noise.
    max_key_tokens: A key has 1 to so many, all sizes as likely.
    max_value_tokens: The same of a value.
    noise_fraction: Share of pairs hidden by noise.
    noise_vocab_size: Ids of noise.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 16
  max_key_tokens: int = 1
  max_value_tokens: int = 1
  noise_fraction: float = 0.0
  noise_vocab_size: int = 0
  held_out_examples: int = 1024

  name = "in_context_recall"

  @property
  def num_keys(self) -> int:
    return (self.vocab_size - self.noise_vocab_size - 1) // 2

  @property
  def chance(self) -> float:
    return 1 / (self.vocab_size - self.noise_vocab_size - 1 - self.num_keys)

  def __post_init__(self):
    if not 0 <= self.noise_fraction < 1:
      raise ValueError(
        f"{self.name} needs 0 <= noise_fraction < 1; got {self.noise_fraction}"
      )
    checks.check_at_least(
      self.name,
      1,
      max_key_tokens=self.max_key_tokens,
      max_value_tokens=self.max_value_tokens,
      held_out_examples=self.held_out_examples,
    )
    least = int(self.noise_fraction > 0)
    checks.check_at_least(self.name, least, noise_vocab_size=self.noise_vocab_size)
    least = self.noise_vocab_size + 3
    checks.check_at_least(self.name, least, vocab_size=self.vocab_size)


@dataclasses.dataclass(frozen=True)
class NoisyRecallConfig(InContextRecallConfig):
  """With noise. The authors' smallest setting, of 128 tokens."""

  vocab_size: int = 32
  noise_fraction: float = 0.2
  noise_vocab_size: int = 16

  name = "noisy_recall"


@dataclasses.dataclass(frozen=True)
class FuzzyRecallConfig(InContextRecallConfig):
  """With groups of tokens. The authors' smallest setting, of 128 tokens."""

  max_key_tokens: int = 3
  max_value_tokens: int = 3

  name = "fuzzy_recall"


def example(
  key: PRNGKeyArray, config: InContextRecallConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  K, most = config.num_keys, config.max_key_tokens + config.max_value_tokens
  first_noise = config.vocab_size - config.noise_vocab_size
  n = length // 2  # Pairs, before the last, that can fill the row.
  keys_key, values_key, noise_key, hide_key, ask_key = jax.random.split(key, 5)

  def groups(key, first, end, most):
    tokens_key, size_key = jax.random.split(key)
    tokens = jax.random.randint(tokens_key, (n, most), first, end)
    size = jax.random.randint(size_key, (n, 1), 1, most + 1)
    return jnp.where(jnp.arange(most) < size, tokens, PAD)

  keys = groups(keys_key, 1, K + 1, config.max_key_tokens)
  values = groups(values_key, K + 1, first_noise, config.max_value_tokens)
  same = (keys[:, None] == keys).all(-1)
  pairs = jnp.concatenate([keys, values[same.argmax(axis=1)]], axis=1)

  # Pairs count from the end. Room is left for the last one, whatever its size.
  to_end = jnp.cumsum((pairs != PAD).sum(1)[::-1])[::-1]
  fits = to_end <= length + 1 - most
  asked = n - 1 - jax.random.randint(ask_key, (), 0, fits.sum())
  hidden = jax.random.bernoulli(hide_key, config.noise_fraction, (n,))
  hidden = hidden.at[asked].set(False)
  noise = jax.random.randint(noise_key, pairs.shape, first_noise, config.vocab_size)
  shown = jnp.where(hidden[:, None] & (pairs != PAD), noise, pairs)
  shown = jnp.append(jnp.where(fits[:, None], shown, PAD), pairs[asked][None], axis=0)

  readable = fits & ~hidden
  before = same & readable & (jnp.arange(n) < jnp.arange(n)[:, None])
  again = jnp.append(before.any(1) & readable, True)
  counts = again[:, None] & (jnp.arange(most) >= config.max_key_tokens)

  # Close the gaps that shorter groups leave.
  shown, counts = shown.reshape(-1), counts.reshape(-1)
  place = length + 1 - jnp.cumsum((shown != PAD)[::-1])[::-1]
  place = jnp.where(shown == PAD, length + 1, place)
  pack = lambda x: jnp.zeros(length + 1, x.dtype).at[place].set(x, mode="drop")
  tokens, weights = pack(shown), pack(counts)[1:]
  return dict(
    inputs=tokens[:-1],
    targets=jnp.where(weights, tokens[1:], 0),
    weights=weights.astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: InContextRecallConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T; two pairs of the largest size must fit, but for the last token.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If the length leaves no place for a pair and its query.
  """
  least = 2 * (config.max_key_tokens + config.max_value_tokens) - 1
  checks.check_at_least(config.name, least, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
