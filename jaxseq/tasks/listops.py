"""ListOps (Nangia & Bowman 2018, arXiv:1804.06028), as in the Long Range Arena.

    inputs   [MAX 2 [SM 7 8 ] 0 [MED 1 9 4 ] ]  .  .        one id each, "." is padding
    target   5

Least, largest, middle value and sum modulo 10 of digits and of expressions nested in
each other. The value of two in the middle is their mean, rounded down. Sequences of the
Arena (Tay et al. 2020, arXiv:2011.04006) have 500 to 2000 ids, at most 10
levels and at most 10 arguments, and so, by default, have these: a quarter of the length
or more.

The Arena's authors draw trees until one has such a length. Here a tree is grown to it,
an id at a time. It begins with ids to spend, evenly drawn from T / 4 to T. An operator
draws its number of arguments and breaks what it has to spend among them, every way of
doing so being as likely; what one leaves goes to those after it. An argument that may
spend fewer than 4, or that stands at the last level, is a digit.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["DIGIT", "END", "OPERATOR", "ListOpsConfig", "batch"]

PADDING, DIGIT, OPERATOR, END = 0, 1, 11, 15  # The ids of 0 and of MIN; "]".
SHORTEST = 4  # Ids of an operator with two digits.


@dataclasses.dataclass(frozen=True)
class ListOpsConfig:
  """The task.

  Attributes:
    max_depth: Levels of operators, the root's being the first.
    max_args: Most arguments of an operator.
    held_out_examples: Number of sequences evaluated.
  """

  max_depth: int = 10
  max_args: int = 10
  held_out_examples: int = 1024

  vocab_size = END + 1
  num_outputs = 10
  # The share of the most frequent value, 0, counted on 40,000 sequences of the default
  # config at T = 2000. It is 0.15 at T = 64, and 0.11 with at most 4 arguments.
  chance = 0.196

  def __post_init__(self):
    checks.check_at_least(
      "listops", 1, max_depth=self.max_depth, held_out_examples=self.held_out_examples
    )
    checks.check_at_least("listops", 2, max_args=self.max_args)


def example(
  key: PRNGKeyArray, config: ListOpsConfig, length: int
) -> dict[str, Int[Array, "..."]]:
  """One sequence; see `batch`."""
  # Of each open operator: where its arguments have to end, how many are to come, which
  # operator it is, and how often it was given each digit. Level 0 is given the value.
  key, ids_key = jax.random.split(key)
  levels = config.max_depth + 1
  spend = jax.random.randint(ids_key, (), -(-length // 4), length + 1)
  end = jnp.zeros(levels, jnp.int32).at[0].set(spend)
  missing = jnp.zeros(levels, jnp.int32).at[0].set(1)
  operator = jnp.zeros(levels, jnp.int32)
  given = jnp.zeros((levels, 10), jnp.int32)

  def step(state, at):
    depth, end, missing, operator, given = state
    place, key = at
    share_key, nest_key, count_key, digit_key, operator_key = jax.random.split(key, 5)
    done = missing[0] == 0
    closes = missing[depth] == 0
    others = jnp.maximum(missing[depth] - 1, 0)
    # The first of some parts of a stick broken evenly; each other one needs an id.
    free = end[depth] - place - others
    part = 1 - jax.random.uniform(share_key) ** (1 / jnp.maximum(others, 1))
    spend = jnp.where(others, 1 + jnp.floor(part * free).astype(jnp.int32), free)
    spend = jnp.minimum(spend, free)
    opens = ~closes & (spend >= SHORTEST) & (depth < config.max_depth)

    digit = jax.random.randint(digit_key, (), 0, 10)
    which = jax.random.randint(operator_key, (), 0, 4)
    most = jnp.clip(spend - 2, 2, config.max_args)
    count = jax.random.randint(count_key, (), 2, most + 1)
    token = jnp.where(opens, OPERATOR + which, DIGIT + digit)
    token = jnp.where(closes, END, token)

    value = jnp.where(closes, _value(operator[depth], given[depth]), digit)
    depth = jnp.where(closes, depth - 1, depth)  # Of who is given the value.
    given = given.at[depth, value].add(jnp.where(opens, 0, 1))
    missing = missing.at[depth].add(jnp.where(opens, 0, -1))
    new = jnp.minimum(depth + 1, config.max_depth)
    put = lambda x, y: jnp.where(opens, x.at[new].set(y), x)
    then = (
      jnp.where(opens, new, depth),
      put(end, place + spend - 1),
      put(missing, count),
      put(operator, which),
      put(given, 0),
    )
    then, token = jax.tree.map(
      lambda old, new: jnp.where(done, old, new), (state, PADDING), (then, token)
    )
    return then, token

  state = (jnp.int32(0), end, missing, operator, given)
  at = (jnp.arange(length), jax.random.split(key, length))
  (*_, given), inputs = jax.lax.scan(step, state, at)
  return dict(
    inputs=inputs,
    targets=given[0].argmax().astype(jnp.int32),
    weights=jnp.float32(1),
    segment_ids=(inputs != PADDING).astype(jnp.int32),
  )


def _value(operator, given):
  """MIN, MAX, MED or SM of the digits, given how often each is there."""
  smallest = lambda k: jnp.sum(jnp.cumsum(given) <= k)
  count = given.sum()
  middle = (smallest((count - 1) // 2) + smallest(count // 2)) // 2
  total = jnp.dot(given, jnp.arange(10)) % 10
  return jnp.stack([smallest(0), smallest(count - 1), middle, total])[operator]


def batch(
  keys: PRNGKeyArray, config: ListOpsConfig, length: int
) -> dict[str, Int[Array, "B ..."]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 16.

  Returns:
    A batch of `data`: inputs and segment_ids [B, T], targets and weights (float32) [B].

  Raises:
    ValueError: If a quarter of the length does not hold the shortest expression.
  """
  checks.check_at_least("listops", 4 * SHORTEST, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
