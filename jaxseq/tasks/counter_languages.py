"""Counter languages (Bhattamishra et al. 2020, arXiv:2009.11264).

    counter_language   a^n b^n c^n, one word after the other, n drawn anew for each
    inputs   a a a b b b c c c a a    n = 3, then 2; T = 11
    targets  . . . b . c c . a . .    the next symbol, where counting foretells it

Once the first b has come, all is known up to the next word. Of each run of one symbol
two places count, the last, where another symbol follows, and one before it, drawn
evenly, where the same does. So an answer is right half of the time at most; in longer
words, of m symbols, each but the first and the second is in 1 / (m - 1) of the places.

    shuffle_dyck   k kinds of brackets, each nested by itself: counts, but no stack
    inputs   ( [ ( ) ] )    k = 2, T = 6
    targets  . . . 1 0 0    after a closing bracket: may this kind close again?

A token is of any kind; it opens if none of its kind is open, else with some odds p. The
number of open ones then is geometric in the long run, and that it falls to 0 has the
odds (1 - 2p) / (1 - p). So many of the other closings count that both answers do alike.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = [
  "CounterConfig",
  "ShuffleDyckConfig",
  "counter_batch",
  "shuffle_dyck_batch",
]


@dataclasses.dataclass(frozen=True)
class CounterConfig:
  """a^n b^n, a^n b^n c^n and so on.

  Attributes:
    num_symbols: Of a word.
    min_count: Smallest n.
    max_count: Largest n; may be larger than trained on.
    held_out_examples: Number of sequences evaluated.
  """

  num_symbols: int = 3
  min_count: int = 2
  max_count: int = 10
  held_out_examples: int = 1024

  @property
  def vocab_size(self) -> int:
    return self.num_symbols

  @property
  def chance(self) -> float:
    return 1 / max(2, self.num_symbols - 1)

  def __post_init__(self):
    checks.check_at_least(
      "counter_language", 1, held_out_examples=self.held_out_examples
    )
    checks.check_at_least(
      "counter_language", 2, num_symbols=self.num_symbols, min_count=self.min_count
    )
    checks.check_at_least("counter_language", self.min_count, max_count=self.max_count)


@dataclasses.dataclass(frozen=True)
class ShuffleDyckConfig:
  """Shuffle-k.

  Attributes:
    num_kinds: k. Ids below k open, those from k on close.
    open_probability: p, from 1/3 on and below 1/2; near 1/2 more are open at once.
    held_out_examples: Number of sequences evaluated.
  """

  num_kinds: int = 2
  open_probability: float = 0.4
  held_out_examples: int = 1024

  chance = 0.5

  @property
  def vocab_size(self) -> int:
    return 2 * self.num_kinds

  def __post_init__(self):
    checks.check_at_least(
      "shuffle_dyck",
      1,
      num_kinds=self.num_kinds,
      held_out_examples=self.held_out_examples,
    )
    if not 1 / 3 <= self.open_probability < 1 / 2:
      raise ValueError(
        "shuffle_dyck needs an open_probability from 1/3 on and below 1/2; got "
        f"{self.open_probability}"
      )


def counter_example(
  key: PRNGKeyArray, config: CounterConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `counter_batch`."""
  m = config.num_symbols
  words = 1 + length // (m * config.min_count)
  counts_key, places_key = jax.random.split(key)
  counts = jax.random.randint(
    counts_key, (words,), config.min_count, config.max_count + 1
  )
  before_last = jax.random.randint(places_key, (words, m), 0, counts[:, None] - 1)
  ends = jnp.cumsum(m * counts)
  t = jnp.arange(length)
  word = jnp.searchsorted(ends, t, side="right")
  n = counts[word]
  since = t - (ends[word] - m * n)  # The start of the word.
  symbol, place = since // n, since % n
  last = place == n - 1
  weighed = (symbol > 0) & (last | (place == before_last[word, symbol]))
  return dict(
    inputs=symbol,
    targets=jnp.where(weighed, (symbol + last) % m, 0),
    weights=weighed.astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def shuffle_dyck_example(
  key: PRNGKeyArray, config: ShuffleDyckConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `shuffle_dyck_batch`."""
  k, p = config.num_kinds, config.open_probability
  kinds_key, opens_key, weighed_key = jax.random.split(key, 3)
  kinds = jax.random.randint(kinds_key, (length,), 0, k)
  coins = jax.random.bernoulli(opens_key, p, (length,))

  def step(counts, drawn):
    kind, coin = drawn
    opens = coin | (counts[kind] == 0)
    counts = counts.at[kind].add(jnp.where(opens, 1, -1))
    return counts, (opens, counts[kind] > 0)

  _, (opens, again) = jax.lax.scan(step, jnp.zeros(k, jnp.int32), (kinds, coins))
  kept = jax.random.bernoulli(weighed_key, (1 - 2 * p) / p, (length,))
  weighed = ~opens & (kept | ~again)
  return dict(
    inputs=jnp.where(opens, kinds, k + kinds),
    targets=(weighed & again).astype(jnp.int32),
    weights=weighed.astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def counter_batch(
  keys: PRNGKeyArray, config: CounterConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of a^n b^n .., a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 2 `max_count`.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If the longest a^n b^n does not fit.
  """
  least = 2 * config.max_count
  checks.check_at_least("counter_language", least, sequence_length=length)
  return jax.vmap(lambda key: counter_example(key, config, length))(keys)


def shuffle_dyck_batch(
  keys: PRNGKeyArray, config: ShuffleDyckConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of shuffled brackets, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 2.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If no bracket could close.
  """
  checks.check_at_least("shuffle_dyck", 2, sequence_length=length)
  return jax.vmap(lambda key: shuffle_dyck_example(key, config, length))(keys)
