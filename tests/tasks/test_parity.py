import jax
import numpy as np
import pytest

from jaxseq.tasks import parity


def test_targets_are_the_parity_of_the_bits_so_far():
  keys = jax.random.split(jax.random.key(0), 50)
  batch = parity.batch(keys, parity.ParityConfig(), 21)
  bits = np.asarray(batch["inputs"])
  assert set(np.unique(bits)) == {0, 1} and abs(bits.mean() - 0.5) < 0.05
  for row, targets in zip(bits, np.asarray(batch["targets"])):
    assert [int(row[: t + 1].sum() % 2) for t in range(21)] == targets.tolist()


def test_nothing_held_out_is_refused():
  with pytest.raises(ValueError, match="held_out_examples >= 1; got 0"):
    parity.ParityConfig(held_out_examples=0)
