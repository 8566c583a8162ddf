"""Compression (after Poli et al. 2024, "MAD", arXiv:2403.17844; code: mad-lab).

    inputs   a b c a | 3 0 2 1        "|" ends the sequence; its places from 0; T = 9
    targets  . . . . . a a c b        only these count

The authors read one output, that at "|", and an MLP decodes from it and a position the
token that stood there. A model with an output for each token asks instead by tokens
that name the places, each once and in any order, so that one answer does not lead to
the next. A recurrent state must hold the whole sequence at "|", as theirs; attention is
not held to it, since it can look back past "|".
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["CompressionConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class CompressionConfig:
  """The task.

  Attributes:
    num_tokens: Different tokens; their ids come first, then "|", then the places.
    max_places: Longest sequence that the vocabulary can ask for. The authors' smallest
      setting has 31 places; how many are used, the length says.
    held_out_examples: Number of sequences evaluated.
  """

  num_tokens: int = 15
  max_places: int = 256
  held_out_examples: int = 1024

  @property
  def vocab_size(self) -> int:
    return self.num_tokens + 1 + self.max_places

  @property
  def chance(self) -> float:
    return 1 / self.num_tokens

  def __post_init__(self):
    checks.check_at_least("compression", 2, num_tokens=self.num_tokens)
    checks.check_at_least(
      "compression",
      1,
      max_places=self.max_places,
      held_out_examples=self.held_out_examples,
    )


def example(
  key: PRNGKeyArray, config: CompressionConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  n, end = length // 2, config.num_tokens
  tokens_key, places_key = jax.random.split(key)
  tokens = jax.random.randint(tokens_key, (n,), 0, end)
  places = jax.random.permutation(places_key, n)[: length - n - 1]
  quiet = jnp.zeros(n + 1, jnp.int32)
  return dict(
    inputs=jnp.concatenate([tokens, jnp.array([end]), end + 1 + places]),
    targets=jnp.concatenate([quiet, tokens[places]]),
    weights=(jnp.arange(length) > n).astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: CompressionConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, 3 to 2 `max_places` + 1. Half of it is the sequence.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If nothing would be asked, or the vocabulary lacks the places.
  """
  checks.check_at_least("compression", 3, sequence_length=length)
  if length // 2 > config.max_places:
    raise ValueError(
      f"compression needs sequence_length <= 2 max_places + 1 = "
      f"{2 * config.max_places + 1}; got {length}"
    )
  return jax.vmap(lambda key: example(key, config, length))(keys)
