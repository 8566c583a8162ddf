import itertools
import re

import jax
import numpy as np
import pytest

from jaxseq.tasks import counter_languages as languages

make_counter = jax.jit(languages.counter_batch, static_argnums=(1, 2))
make_shuffle = jax.jit(languages.shuffle_dyck_batch, static_argnums=(1, 2))
KEYS = jax.random.split(jax.random.key(0), 300)


def test_words_have_as_many_of_each_symbol():
  config = languages.CounterConfig(num_symbols=3, max_count=5)
  batch = jax.tree.map(np.asarray, make_counter(KEYS, config, 50))
  counts = []
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"], batch["weights"]
  ):
    text = "".join("abc"[x] for x in inputs)
    runs = [len(list(run)) for _, run in itertools.groupby(text)]
    whole = len(runs) - 1  # The last run may have been cut.
    for i in range(whole):
      assert runs[i] == runs[i - i % 3]
    counts += runs[:whole:3]
    assert re.fullmatch("(a+b+c+)*(a+(b+(c+)?)?)?", text)
    start = 0
    for i, n in enumerate(runs[:whole]):
      places = np.flatnonzero(weights[start : start + n])
      assert len(places) == (0 if i % 3 == 0 else 2)
      start += n
    for t in np.flatnonzero(weights[:-1]):
      assert targets[t] == inputs[t + 1]
    assert weights.any() and not targets[weights == 0].any()
  assert set(counts) == {2, 3, 4, 5}


@pytest.mark.parametrize("m, chance", [(2, 1 / 2), (4, 1 / 3)])
def test_chance_is_that_of_the_likeliest_next_symbol(m, chance):
  config = languages.CounterConfig(num_symbols=m, max_count=4)
  batch = jax.tree.map(np.asarray, make_counter(KEYS, config, 100))
  seen = np.bincount(batch["targets"][batch["weights"] > 0])
  assert config.chance == chance
  assert abs(seen.max() / seen.sum() - chance) < 0.02


def test_each_kind_of_shuffled_brackets_closes_what_it_opened():
  config = languages.ShuffleDyckConfig(num_kinds=2)
  batch = jax.tree.map(np.asarray, make_shuffle(KEYS, config, 60))
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"], batch["weights"]
  ):
    for t, x in enumerate(inputs):
      still_open = inputs[: t + 1].count(x % 2) - inputs[: t + 1].count(x % 2 + 2)
      assert still_open >= 0
      if weights[t]:
        assert x >= 2 and targets[t] == (still_open > 0)
      else:
        assert targets[t] == 0 and (x < 2 or still_open)


def test_in_the_long_run_brackets_close_again_or_not_alike():
  batch = make_shuffle(KEYS[:100], languages.ShuffleDyckConfig(), 600)
  assert abs(batch["targets"].sum() / batch["weights"].sum() - 0.5) < 0.03


def test_wrong_fields_and_lengths_are_refused():
  with pytest.raises(ValueError, match="max_count >= 3; got 2"):
    languages.CounterConfig(min_count=3, max_count=2)
  with pytest.raises(ValueError, match="num_symbols >= 2; got 1"):
    languages.CounterConfig(num_symbols=1)
  with pytest.raises(ValueError, match="sequence_length >= 20; got 19"):
    make_counter(KEYS, languages.CounterConfig(), 19)
  with pytest.raises(ValueError, match="below 1/2; got 0.5"):
    languages.ShuffleDyckConfig(open_probability=0.5)
  with pytest.raises(ValueError, match="sequence_length >= 2; got 1"):
    make_shuffle(KEYS, languages.ShuffleDyckConfig(), 1)
