"""Dyck-(k, m): well-nested brackets of k kinds, at most m open at once.

    inputs   ( [ ] [ ( ) ]      (Yao et al. 2021, arXiv:2105.11115; k = 2, m = 3, T = 7)
    targets  . ] . . ) ] )      the next token, which counts where it closes

At each token a bracket of any kind opens or the last one closes, with equal odds where
both may be. What opens cannot be foreseen; what closes is known and depends on the
stack, so chance is 1 / k. (The set of symbols that may follow would be an alternative,
but how often each set is right depends on k, m and the length.) About half of the
closings are of the very last token. The sequence is a prefix of a word of the language.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["BoundedDyckConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class BoundedDyckConfig:
  """The task.

  Attributes:
    num_kinds: k. Ids below k open, those from k on close.
    depth: m.
    held_out_examples: Number of sequences evaluated.
  """

  num_kinds: int = 8
  depth: int = 5
  held_out_examples: int = 1024

  @property
  def vocab_size(self) -> int:
    return 2 * self.num_kinds

  @property
  def chance(self) -> float:
    return 1 / self.num_kinds

  def __post_init__(self):
    checks.check_at_least(
      "bounded_dyck", 1, depth=self.depth, held_out_examples=self.held_out_examples
    )
    checks.check_at_least("bounded_dyck", 2, num_kinds=self.num_kinds)


def example(
  key: PRNGKeyArray, config: BoundedDyckConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  k, m = config.num_kinds, config.depth
  coins_key, kinds_key = jax.random.split(key)
  coins = jax.random.bernoulli(coins_key, shape=(length + 1,))
  kinds = jax.random.randint(kinds_key, (length + 1,), 0, k)

  def step(state, drawn):
    stack, depth = state
    coin, kind = drawn
    opens = (depth == 0) | (coin & (depth < m))
    token = jnp.where(opens, kind, k + stack[depth - 1])
    # A place above the top is free to be written also when the top is closed.
    return (stack.at[depth].set(kind), depth + jnp.where(opens, 1, -1)), token

  start = jnp.zeros(m + 1, jnp.int32), 0
  _, tokens = jax.lax.scan(step, start, (coins, kinds))
  closes = tokens[1:] >= k
  return dict(
    inputs=tokens[:-1],
    targets=jnp.where(closes, tokens[1:], 0),
    weights=closes.astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: BoundedDyckConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least `depth`.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If the sequence might end before a bracket closes.
  """
  checks.check_at_least("bounded_dyck", config.depth, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
