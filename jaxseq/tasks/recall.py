"""Multi-query associative recall (Arora et al. 2023, "Zoology", arXiv:2312.04927).

    inputs   k1 v1 k2 v2  .  .  k2  .  k1  .     sec. 4 and app. F; n = 2 pairs, T = 10
    targets   .  .  .  .  .  . v2  . v1  .       only these count

Keys are ids of the lower half of the vocabulary but 0, values of the upper half. None
occurs twice among the pairs. Each key is asked for once, at an even distance 2 g behind
the pairs. The gaps g are drawn without repetition, p(g) ~ (g + 1)^(a - 1), where the
authors take a = 0.01: most are short. All other places hold ids drawn from the whole
vocabulary, so a key may stand there too, unasked.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["RecallConfig", "batch", "example"]

GAP_POWER = 0.01  # a; 1 would make all gaps alike.


@dataclasses.dataclass(frozen=True)
class RecallConfig:
  """The task.

  Attributes:
    vocab_size: W. The authors take 8192; smaller ones tell mixers apart less well.
    num_pairs: n, keys to remember.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 8192
  num_pairs: int = 8
  held_out_examples: int = 1024

  @property
  def chance(self) -> float:
    return 1 / (self.vocab_size - self.vocab_size // 2)

  def __post_init__(self):
    checks.check_at_least(
      "mqar", 1, num_pairs=self.num_pairs, held_out_examples=self.held_out_examples
    )
    if self.vocab_size // 2 - 1 < self.num_pairs:
      raise ValueError(
        f"mqar needs vocab_size >= 2 num_pairs + 2 = {2 * self.num_pairs + 2}, a "
        f"key and a value for each pair; got {self.vocab_size}"
      )


def example(
  key: PRNGKeyArray, config: RecallConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  n, half = config.num_pairs, config.vocab_size // 2
  space = (length - 2 * n) // 2  # Places for a query.
  keys_key, values_key, gaps_key, rest_key = jax.random.split(key, 4)
  choose = lambda key, ids: jax.random.choice(key, ids, (n,), replace=False)
  keys = choose(keys_key, jnp.arange(1, half))
  values = choose(values_key, jnp.arange(half, config.vocab_size))
  p = jnp.arange(1, space + 1, dtype=jnp.float32) ** (GAP_POWER - 1)
  gaps = jax.random.choice(gaps_key, space, (n,), replace=False, p=p / p.sum())
  queries = 2 * n + 2 * gaps

  inputs = jax.random.randint(rest_key, (length,), 0, config.vocab_size)
  inputs = inputs.at[: 2 * n].set(jnp.stack([keys, values], axis=1).reshape(-1))
  return dict(
    inputs=inputs.at[queries].set(keys),
    targets=jnp.zeros(length, jnp.int32).at[queries].set(values),
    weights=jnp.zeros(length, jnp.float32).at[queries].set(1),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: RecallConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 4 `num_pairs`.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If the length leaves no place for the queries.
  """
  if length < 4 * config.num_pairs:
    raise ValueError(
      f"mqar needs sequence_length >= 4 num_pairs = {4 * config.num_pairs}, "
      f"for pairs and queries; got {length}"
    )
  return jax.vmap(lambda key: example(key, config, length))(keys)
