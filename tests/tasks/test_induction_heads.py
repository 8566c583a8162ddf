import jax
import numpy as np
import pytest

from jaxseq.tasks import induction_heads

CONFIG = induction_heads.InductionHeadsConfig(vocab_size=7)


def test_the_target_is_what_followed_the_special_token():
  keys = jax.random.split(jax.random.key(0), 500)
  batch = jax.tree.map(np.asarray, induction_heads.batch(keys, CONFIG, 12))
  firsts = []
  for inputs, targets, weights in zip(
    batch["inputs"], batch["targets"], batch["weights"]
  ):
    first, last = np.flatnonzero(inputs == 6)
    assert last == 11 and inputs[first + 1] == targets[-1] < 6
    assert weights.tolist() == [0] * 11 + [1]
    firsts.append(first)
  assert set(firsts) == set(range(10))


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="vocab_size >= 3; got 2"):
    induction_heads.InductionHeadsConfig(vocab_size=2)
  with pytest.raises(ValueError, match="held_out_examples >= 1; got 0"):
    induction_heads.InductionHeadsConfig(held_out_examples=0)
  with pytest.raises(ValueError, match="sequence_length >= 3; got 2"):
    induction_heads.batch(jax.random.split(jax.random.key(0), 1), CONFIG, 2)
