"""Languages in context, RegBench (Akyürek et al. 2024, arXiv:2401.12973).

    inputs   b a c | b a a c |      strings of one random automaton, anew for each
    targets  a c . b a a c .        sequence; W - 1 symbols and "|", which is 0

As in the authors' code: the numbers of states and symbols are uniform, the symbols a
random share of the vocabulary. Each state has 1 to E edges, with different symbols, to
different other states, all equally likely. A string starts at state 0; its length is
uniform, for every state accepts. Where "|" comes next nothing counts. The authors then
minimise the automaton, which changes no distribution of strings: states that it merges
have the same symbols.

The optimum is the automaton's own distribution of the next symbol. No learner reaches
that: it would have to know the automaton, of which the strings before tell only part.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["AutomataConfig", "automaton", "batch"]

DELIMITER = 0


@dataclasses.dataclass(frozen=True)
class AutomataConfig:
  """The task.

  Attributes:
    vocab_size: W: 0 is the delimiter, an automaton has E + 1 or more of the others. The
      authors have 18 of them.
    max_states: An automaton has E + 1 or more. The authors take 12.
    max_edges: E, of a state. The authors' code takes 3.
    max_string: Symbols of the longest string, the shortest has 1. The authors' code
      takes 49, and 10 to 19 strings.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 11
  max_states: int = 8
  max_edges: int = 3
  max_string: int = 20
  held_out_examples: int = 1024

  def __post_init__(self):
    checks.check_at_least(
      "automata",
      1,
      max_edges=self.max_edges,
      max_string=self.max_string,
      held_out_examples=self.held_out_examples,
    )
    checks.check_at_least("automata", self.max_edges + 1, max_states=self.max_states)
    checks.check_at_least("automata", self.max_edges + 2, vocab_size=self.vocab_size)


def automaton(
  key: PRNGKeyArray, config: AutomataConfig
) -> tuple[Int[Array, "S E"], Int[Array, "S E"], Int[Array, " S"]]:
  """Symbols and next states of the edges, and how many of them each state has."""
  S, E, symbols = config.max_states, config.max_edges, config.vocab_size - 1
  keys = jax.random.split(key, 6)
  num_states = jax.random.randint(keys[0], (), E + 1, S + 1)
  num_symbols = jax.random.randint(keys[1], (), E + 1, symbols + 1)
  num_edges = jax.random.randint(keys[2], (S,), 1, E + 1)

  def choose(key, allowed):
    """E different ones of those allowed, for each state."""
    order = jax.random.uniform(key, allowed.shape)
    return jax.lax.top_k(jnp.where(allowed, order, -1), E)[1]

  alphabet = jax.random.permutation(keys[3], symbols) < num_symbols
  symbol = choose(keys[4], jnp.broadcast_to(alphabet, (S, symbols)))
  state = choose(keys[5], (jnp.arange(S) < num_states) & ~jnp.eye(S, dtype=bool))
  return 1 + symbol, state, num_edges


def example(key: PRNGKeyArray, config: AutomataConfig, length: int) -> dict[str, Array]:
  """One sequence; see `batch`."""
  W = config.vocab_size
  automaton_key, lengths_key, edges_key = jax.random.split(key, 3)
  symbols, states, num_edges = automaton(automaton_key, config)
  used = jnp.arange(config.max_edges) < num_edges[:, None]
  rows = jnp.arange(len(symbols))[:, None]
  p = jnp.zeros((len(symbols), W)).at[rows, symbols].add(used / num_edges[:, None])

  # A string and its delimiter take two places or more.
  sizes = jax.random.randint(lengths_key, (length // 2 + 1,), 2, config.max_string + 2)
  ends = jnp.zeros(length + 1, bool)
  ends = ends.at[jnp.cumsum(sizes) - 1].set(True, mode="drop")

  def step(state, place):
    key, end = place
    edge = jax.random.randint(key, (), 0, num_edges[state])
    token = jnp.where(end, DELIMITER, symbols[state, edge])
    return jnp.where(end, 0, states[state, edge]), (token, p[state])

  keys = jax.random.split(edges_key, length + 1)
  _, (tokens, optimum) = jax.lax.scan(step, 0, (keys, ends))
  weights = (~ends[1:]).astype(jnp.float32)
  return dict(
    inputs=tokens[:-1],
    targets=tokens[1:],  # The delimiter is 0, where nothing counts.
    weights=weights,
    segment_ids=jnp.ones(length, jnp.int32),
    optimum=optimum[1:] * weights[:, None],
  )


def batch(keys: PRNGKeyArray, config: AutomataConfig, length: int) -> dict[str, Array]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 2: after a string of one symbol and its end, one counts.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids [B, T], and
    optimum [B, T, W].

  Raises:
    ValueError: If there would be less than two tokens.
  """
  checks.check_at_least("automata", 2, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
