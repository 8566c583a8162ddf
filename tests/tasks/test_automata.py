import collections

import jax
import numpy as np
import pytest

from jaxseq.tasks import automata

CONFIG = automata.AutomataConfig(vocab_size=9, max_states=6, max_string=5)
LENGTH = 600
make = jax.jit(automata.batch, static_argnums=(1, 2))


@pytest.fixture(scope="module")
def batch():
  batch = make(jax.random.split(jax.random.key(0), 30), CONFIG, LENGTH)
  return jax.tree.map(np.asarray, batch)


def strings(tokens):
  """For each place but the last the string so far, and what comes next."""
  string = ()
  for token, following in zip(tokens, tokens[1:]):
    string = () if token == automata.DELIMITER else (*string, int(token))
    yield string, int(following)


def test_the_optimum_is_even_over_what_has_followed_a_string(batch):
  """Found from all of a long row: short strings have been followed by all that can."""
  for tokens, optimum, weights in zip(
    batch["inputs"], batch["optimum"], batch["weights"]
  ):
    followed, often = collections.defaultdict(set), collections.Counter()
    for string, following in strings(tokens):
      if following != automata.DELIMITER:
        followed[string].add(following)
        often[string] += 1
    checked = 0
    for t, (string, following) in enumerate(strings(tokens)):
      assert weights[t] == (following != automata.DELIMITER)
      if weights[t] and often[string] > 40:
        want = np.isin(np.arange(9), list(followed[string])) / len(followed[string])
        np.testing.assert_allclose(optimum[t], want, rtol=1e-6)
        checked += 1
    assert checked > 100


def test_targets_are_the_symbols_that_come_next(batch):
  inputs, targets, weights = (batch[k] for k in ("inputs", "targets", "weights"))
  np.testing.assert_array_equal(targets[:, :-1], inputs[:, 1:])
  assert (weights == (targets != automata.DELIMITER)).all()
  p = np.take_along_axis(batch["optimum"], targets[..., None], axis=2)[..., 0]
  assert p[weights > 0].min() >= 1 / CONFIG.max_edges - 1e-6 and p.max() <= 1
  assert not p[weights == 0].any()


def test_strings_have_all_lengths_alike(batch):
  lengths = collections.Counter()
  for tokens in batch["inputs"]:
    ends = np.flatnonzero(tokens == automata.DELIMITER)
    lengths.update(np.diff(ends) - 1)
  assert set(lengths) == {1, 2, 3, 4, 5}
  assert min(lengths.values()) > 0.15 * lengths.total()


def test_an_automaton_is_drawn_as_described():
  keys = jax.random.split(jax.random.key(1), 200)
  draw = jax.jit(jax.vmap(automata.automaton, in_axes=(0, None)), static_argnums=1)
  symbols, states, num_edges = map(np.asarray, draw(keys, CONFIG))
  assert set(num_edges.ravel()) == {1, 2, 3}
  sizes, alphabets = collections.Counter(), collections.Counter()
  for symbol, state in zip(symbols, states):
    for own, (a, b) in enumerate(zip(symbol, state)):
      assert len(set(a)) == len(set(b)) == 3 and own not in b
    sizes[state.max() + 1] += 1
    alphabets[len(np.unique(symbol))] += 1
  assert set(sizes) == {4, 5, 6} and min(sizes.values()) > 30
  assert set(alphabets) == {4, 5, 6, 7, 8} and symbols.min() == 1 and symbols.max() == 8


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="max_states >= 4; got 3"):
    automata.AutomataConfig(max_states=3)
  with pytest.raises(ValueError, match="vocab_size >= 5; got 4"):
    automata.AutomataConfig(vocab_size=4)
  with pytest.raises(ValueError, match="sequence_length >= 2; got 1"):
    make(jax.random.split(jax.random.key(0), 2), CONFIG, 1)
