"""What the tasks of Delétang et al. 2022 (arXiv:2207.02098) have in common.

    inputs   x1 x2 .. xn  ?  ?  ?      a prompt; each "?" asks for a token of the answer
    targets   .  .  .  .  y1 y2 y3     only these count

The tasks are described in `chomsky_regular`, `chomsky_context_free` and
`chomsky_context_sensitive`, after the level of Chomsky's hierarchy that a machine has
to have. n is the largest that fits into T; a place that is left over asks for nothing.
Mixers are trained on short prompts and tried on longer ones.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["PromptConfig", "StringConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class PromptConfig:
  """One of the tasks; a class for each gives what follows and `example`.

  `name` is the task's, `num_symbols` the number of ids in prompts and answers, `chance`
  the accuracy of the best constant answer and `least_length` the smallest T.

  Attributes:
    held_out_examples: Number of sequences evaluated.
  """

  held_out_examples: int = dataclasses.field(default=1024, kw_only=True)

  least_length = 2

  @property
  def vocab_size(self) -> int:
    return self.num_symbols + 1  # The last one asks.

  def prompt_length(self, length: int) -> int:
    """The largest n in a sequence of this length; an answer is one token by default."""
    return length - 1

  def example(
    self, key: PRNGKeyArray, n: int
  ) -> tuple[Int[Array, "N"], Int[Array, "M"], Bool[Array, "M"] | bool]:
    """A prompt of n tokens, its answer, and where the answer counts."""
    raise NotImplementedError

  def __post_init__(self):
    checks.check_at_least(self.name, 1, held_out_examples=self.held_out_examples)


@dataclasses.dataclass(frozen=True)
class StringConfig(PromptConfig):
  """A task whose prompt is a random string, and the answer another by `rewrite`.

  Attributes:
    num_symbols: Of the string.
  """

  num_symbols: int = 2

  copies = 1  # The answer is this often as long as the prompt.

  @property
  def chance(self) -> float:
    return 1 / self.num_symbols

  @property
  def least_length(self) -> int:
    return 1 + self.copies

  def prompt_length(self, length: int) -> int:
    return length // (1 + self.copies)

  def rewrite(self, string: Int[Array, "N"]) -> Int[Array, "M"]:
    raise NotImplementedError

  def example(self, key, n):
    string = jax.random.randint(key, (n,), 0, self.num_symbols)
    return string, self.rewrite(string), True

  def __post_init__(self):
    super().__post_init__()
    checks.check_at_least(self.name, 2, num_symbols=self.num_symbols)


def example(
  key: PRNGKeyArray, config: PromptConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  n = config.prompt_length(length)
  prompt, answer, counts = config.example(key, n)
  counts = jnp.broadcast_to(counts, answer.shape)
  around = n, length - n - len(answer)
  return dict(
    inputs=jnp.pad(prompt, (0, length - n), constant_values=config.num_symbols),
    targets=jnp.pad(jnp.where(counts, answer, 0), around),
    weights=jnp.pad(counts.astype(jnp.float32), around),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: PromptConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of one of the tasks, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least the config's `least_length`.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If a prompt and its answer do not fit.
  """
  checks.check_at_least(config.name, config.least_length, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
