import itertools

import jax
import numpy as np
import pytest

from jaxseq.tasks import group_words

make = jax.jit(group_words.batch, static_argnums=(1, 2))


def words(config, length=12, rows=200):
  batch = make(jax.random.split(jax.random.key(0), rows), config, length)
  return np.asarray(batch["inputs"]).tolist(), np.asarray(batch["targets"]).tolist()


def elements(degree, even):
  """In lexicographic order; of even ones an even number of pairs is out of order."""
  for p in itertools.permutations(range(degree)):
    if not even or sum(x > y for x, y in itertools.combinations(p, 2)) % 2 == 0:
      yield p


@pytest.mark.parametrize(
  "config, degree, even, size",
  [
    (group_words.S3Config(), 3, False, 6),
    (group_words.A5Config(), 5, True, 60),
    (group_words.S5Config(), 5, False, 120),
  ],
)
def test_permutations_act_one_after_the_other(config, degree, even, size):
  by_id = list(elements(degree, even))
  assert config.vocab_size == len(by_id) == size
  seen = set()
  for inputs, targets in zip(*words(config)):
    points = list(range(degree))
    for x, target in zip(inputs, targets):
      points = [by_id[x][point] for point in points]
      assert tuple(points) == by_id[target]
    seen.update(inputs)
  assert seen == set(range(size))


def test_modular_addition_adds():
  for inputs, targets in zip(*words(group_words.ModularAdditionConfig(modulus=7))):
    assert targets == [sum(inputs[: t + 1]) % 7 for t in range(12)]


@pytest.mark.parametrize("most, size", [(2, 11), (3, 31), (5, 120)])
def test_inputs_of_s5_move_few_points_if_asked_to(most, size):
  # The identity; 10 swaps; 20 cycles of three.
  inputs, _ = words(group_words.S5Config(most_moved=most))
  by_id = list(elements(5, False))
  used = {x for row in inputs for x in row}
  assert len(used) == size
  assert max(sum(i != x for i, x in enumerate(by_id[x])) for x in used) == most


def test_groups_of_one_element_and_words_of_no_token_are_refused():
  with pytest.raises(ValueError, match="modulus >= 2; got 1"):
    group_words.ModularAdditionConfig(modulus=1)
  with pytest.raises(ValueError, match="a5 needs most_moved >= 3; got 2"):
    group_words.A5Config(most_moved=2)
  with pytest.raises(ValueError, match="s3 needs held_out_examples >= 1; got 0"):
    group_words.S3Config(held_out_examples=0)
  with pytest.raises(ValueError, match="sequence_length >= 1; got 0"):
    make(jax.random.split(jax.random.key(0), 2), group_words.S3Config(), 0)
