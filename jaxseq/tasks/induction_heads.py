"""Induction heads (Olsson et al. 2022, arXiv:2209.11895), as Mamba's paper has them.

    inputs   3 7 2 * 5 1 3 6 *        "*" is one special token; T = 9
    target                   5        what followed it before

(Gu & Dao 2023, arXiv:2312.00752, sec. 4.1.2 and app. E.1; from H3, Dao et al. 2022,
arXiv:2212.14052.) The special token stands once at a random place and again at the end.
Mixers are trained at one length and tried at longer ones.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["InductionHeadsConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class InductionHeadsConfig:
  """The task.

  Attributes:
    vocab_size: W; the special token is W - 1.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 16
  held_out_examples: int = 1024

  @property
  def chance(self) -> float:
    return 1 / (self.vocab_size - 1)

  def __post_init__(self):
    checks.check_at_least(
      "induction_heads", 1, held_out_examples=self.held_out_examples
    )
    checks.check_at_least("induction_heads", 3, vocab_size=self.vocab_size)


def example(
  key: PRNGKeyArray, config: InductionHeadsConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  special = config.vocab_size - 1
  tokens_key, place_key = jax.random.split(key)
  tokens = jax.random.randint(tokens_key, (length,), 0, special)
  place = jax.random.randint(place_key, (), 0, length - 2)
  return dict(
    inputs=tokens.at[jnp.array([place, length - 1])].set(special),
    targets=jnp.zeros(length, jnp.int32).at[-1].set(tokens[place + 1]),
    weights=jnp.zeros(length, jnp.float32).at[-1].set(1),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: InductionHeadsConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 3.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If there is no place for a token between the two special ones.
  """
  checks.check_at_least("induction_heads", 3, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
