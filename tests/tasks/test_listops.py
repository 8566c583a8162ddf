import statistics

import jax
import numpy as np
import pytest

from jaxseq.tasks import listops
from jaxseq.tasks.listops import DIGIT, END, OPERATOR

CONFIG = listops.ListOpsConfig(max_depth=4, max_args=5)
LENGTH = 90
OPERATORS = (
  *(min, max, lambda digits: int(statistics.median(digits))),
  lambda digits: sum(digits) % 10,
)
make = jax.jit(listops.batch, static_argnums=(1, 2))


@pytest.fixture(scope="module")
def batch():
  keys = jax.random.split(jax.random.key(0), 500)
  return jax.tree.map(np.asarray, make(keys, CONFIG, LENGTH))


def read(tokens):
  """Value, levels and most arguments of the first expression, and what follows it."""
  first, rest = tokens[0], tokens[1:]
  if DIGIT <= first < OPERATOR:
    return int(first) - DIGIT, 0, 0, rest
  assert OPERATOR <= first < END
  values, depths, counts = [], [], []
  while rest[0] != END:
    value, depth, count, rest = read(rest)
    values.append(value)
    depths.append(depth)
    counts.append(count)
  assert len(values) >= 2
  value = OPERATORS[first - OPERATOR](values)
  return value, 1 + max(depths), max(len(values), *counts), rest[1:]


def test_the_target_is_the_value_of_the_one_expression_of_a_row(batch):
  depths, counts = [], []
  for inputs, segment_ids, target in zip(
    batch["inputs"], batch["segment_ids"], batch["targets"]
  ):
    tokens = inputs[segment_ids > 0]
    assert (inputs[len(tokens) :] == 0).all() and (tokens > 0).all()
    value, depth, count, rest = read(tokens)
    assert len(rest) == 0 and value == target
    depths.append(depth)
    counts.append(count)
  assert max(depths) == 4 and max(counts) == 5


def test_sequences_use_the_length_they_are_given():
  keys = jax.random.split(jax.random.key(1), 500)
  lengths = np.asarray(make(keys, listops.ListOpsConfig(), LENGTH)["segment_ids"]).sum(
    1
  )
  assert lengths.max() > 0.95 * LENGTH and 0.55 < lengths.mean() / LENGTH < 0.65
  assert (lengths >= LENGTH / 4 - 2).mean() > 0.99


def test_ids_are_drawn_evenly(batch):
  share = np.bincount(batch["inputs"].reshape(-1), minlength=16)
  digits, operators = share[DIGIT:OPERATOR], share[OPERATOR:END]
  np.testing.assert_allclose(digits / digits.sum(), 0.1, atol=0.01)
  np.testing.assert_allclose(operators / operators.sum(), 0.25, atol=0.02)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="listops needs max_args >= 2; got 1"):
    listops.ListOpsConfig(max_args=1)
  with pytest.raises(ValueError, match="listops needs max_depth >= 1; got 0"):
    listops.ListOpsConfig(max_depth=0)
  keys = jax.random.split(jax.random.key(3), 1)
  with pytest.raises(ValueError, match="listops needs sequence_length >= 16; got 15"):
    listops.batch(keys, listops.ListOpsConfig(), 15)
