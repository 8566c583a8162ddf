"""Multi-query joint recall (Zhan et al. 2025, "HAX", arXiv:2507.00449).

    inputs   X a 5 b 7 Y b 5 a 6 | Y a 6 b 5 X b 7 a        C = K = 2, T = 20
    targets  . . . . . . . . . . . . 6 . 5 . . 7 . 5        only these count

A table of C contexts X, Y with K keys a, b each: a key's value depends on the context
it stands in. After "|" the whole table is asked for, contexts and keys in a new order.
As in the authors' code, but for: contexts and keys are drawn, not the first of their
ids; all rows have tables of the config's size, where theirs are mixed.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["JointRecallConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class JointRecallConfig:
  """The task.

  Attributes:
    num_contexts: C, of a table.
    num_keys: K, in each context.
    num_values: Different values.
    max_contexts: Contexts of the vocabulary.
    max_keys: Keys of the vocabulary. The ids are: values, keys, contexts, padding, "|".
    held_out_examples: Number of sequences evaluated.
  """

  num_contexts: int = 8
  num_keys: int = 8
  num_values: int = 16
  max_contexts: int = 16
  max_keys: int = 16
  held_out_examples: int = 1024

  @property
  def vocab_size(self) -> int:
    return self.num_values + self.max_keys + self.max_contexts + 2

  @property
  def chance(self) -> float:
    return 1 / self.num_values

  def __post_init__(self):
    checks.check_at_least(
      "joint_recall",
      1,
      num_contexts=self.num_contexts,
      num_keys=self.num_keys,
      held_out_examples=self.held_out_examples,
    )
    checks.check_at_least("joint_recall", 2, num_values=self.num_values)
    checks.check_at_least(
      "joint_recall", self.num_contexts, max_contexts=self.max_contexts
    )
    checks.check_at_least("joint_recall", self.num_keys, max_keys=self.max_keys)


def example(
  key: PRNGKeyArray, config: JointRecallConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  C, K, V = config.num_contexts, config.num_keys, config.num_values
  contexts_key, keys_key, values_key, told_key, asked_key = jax.random.split(key, 5)
  contexts = jax.random.choice(contexts_key, config.max_contexts, (C,), replace=False)
  keys = jax.random.choice(keys_key, config.max_keys, (K,), replace=False)
  values = jax.random.randint(values_key, (C, K), 0, V)

  def table(order_key):
    contexts_key, keys_key = jax.random.split(order_key)
    c = jax.random.permutation(contexts_key, C)[:, None]
    k = jnp.tile(jnp.arange(K), (C, 1))
    k = jax.random.permutation(keys_key, k, axis=1, independent=True)
    pairs = jnp.stack([V + keys[k], values[c, k]], axis=-1).reshape(C, 2 * K)
    rows = jnp.concatenate([V + config.max_keys + contexts[c], pairs], axis=1)
    return rows.reshape(-1)

  bar = config.vocab_size - 1
  size = C * (1 + 2 * K)
  place = jnp.arange(length)
  told, asked = table(told_key), table(asked_key)
  tokens = jnp.full(length + 1, bar - 1).at[:size].set(told).at[size].set(bar)
  tokens = tokens.at[size + 1 : 2 * size + 1].set(asked)
  in_row = (place - size - 1) % (1 + 2 * K)
  ask = (place > size) & (place < 2 * size) & (in_row % 2 == 1)
  return dict(
    inputs=tokens[:-1],
    targets=jnp.where(ask, tokens[1:], 0),
    weights=ask.astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: JointRecallConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 2 C (1 + 2 K); what is beyond is padding.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If the table does not fit twice.
  """
  least = 2 * config.num_contexts * (1 + 2 * config.num_keys)
  checks.check_at_least("joint_recall", least, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
