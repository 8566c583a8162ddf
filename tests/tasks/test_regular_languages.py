import functools
import itertools
import re

import jax
import numpy as np
import pytest

from jaxseq.tasks import regular_languages as languages

KEYS = jax.random.split(jax.random.key(0), 400)


def is_depth(n):
  def member(word):
    depths = [0, *itertools.accumulate(1 if x == "0" else -1 for x in word)]
    return min(depths) >= 0 and max(depths) <= n and depths[-1] == 0

  return member


matches = lambda pattern: lambda word: re.fullmatch(pattern, word) is not None
# Membership by another definition than an automaton, and the number of classes.
LANGUAGES = {
  languages.TomitaConfig(language=1): (matches("1*"), 2),
  languages.TomitaConfig(language=2): (matches("(10)*"), 3),
  languages.TomitaConfig(language=3): (
    lambda word: not re.search("(?<!1)1(11)*0(00)*(?!0)", word),
    3,
  ),
  languages.TomitaConfig(language=4): (lambda word: "000" not in word, 3),
  languages.TomitaConfig(language=5): (
    lambda word: word.count("0") % 2 == word.count("1") % 2 == 0,
    2,
  ),
  languages.TomitaConfig(language=6): (
    lambda word: (word.count("0") - word.count("1")) % 3 == 0,
    2,
  ),
  languages.TomitaConfig(language=7): (matches("0*1*0*1*"), 2),
  languages.StarFreeConfig(depth=1): (is_depth(1), 3),
  languages.StarFreeConfig(depth=4): (is_depth(4), 4),
}


def begins_a_word(prefix, member):
  """No word of these languages is further away than by four symbols."""
  ends = ("".join(x) for n in range(5) for x in itertools.product("01", repeat=n))
  return any(member(prefix + end) for end in ends)


@functools.cache
def long_strings(config):
  batch = jax.jit(languages.batch, static_argnums=(1, 2))(KEYS, config, 300)
  return jax.tree.map(np.asarray, batch)


@pytest.mark.parametrize("config", LANGUAGES, ids=str)
def test_classes_are_the_sets_of_what_may_follow(config):
  member, num_classes = LANGUAGES[config]
  assert config.chance == 1 / num_classes
  batch = long_strings(config)
  went_wrong = False
  for inputs, targets, weights in zip(
    batch["inputs"][::40, :50].tolist(), batch["targets"][::40], batch["weights"][::40]
  ):
    word = "".join(map(str, inputs))
    for t in range(50):
      prefix = word[: t + 1]
      follows = (
        begins_a_word(prefix + "0", member)
        + 2 * begins_a_word(prefix + "1", member)
        + 4 * member(prefix)
      )
      assert targets[t] == (follows if weights[t] else 0)
      went_wrong |= not follows
  assert went_wrong == (getattr(config, "language", 0) not in (5, 6))


@pytest.mark.parametrize("config", LANGUAGES, ids=str)
def test_in_the_long_run_all_classes_count_equally_often(config):
  if config == languages.TomitaConfig(language=7):
    pytest.skip("one class is seen at the start alone")
  batch = long_strings(config)
  seen = np.bincount(batch["targets"][batch["weights"] > 0])
  seen = seen[seen > 0] / seen.sum()
  np.testing.assert_allclose(seen, config.chance, atol=0.03)


def test_other_languages_and_lengths_below_the_depth_are_refused():
  with pytest.raises(ValueError, match="language from 1 to 7; got 8"):
    languages.TomitaConfig(language=8)
  with pytest.raises(ValueError, match="depth >= 1; got 0"):
    languages.StarFreeConfig(depth=0)
  with pytest.raises(ValueError, match="sequence_length >= 144; got 100"):
    languages.batch(KEYS, languages.StarFreeConfig(depth=12), 100)
