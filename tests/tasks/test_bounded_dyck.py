import jax
import numpy as np
import pytest

from jaxseq.tasks import bounded_dyck

make = jax.jit(bounded_dyck.batch, static_argnums=(1, 2))
KEYS = jax.random.split(jax.random.key(0), 200)
CONFIG = bounded_dyck.BoundedDyckConfig(num_kinds=3, depth=4)


def test_brackets_close_in_the_order_that_a_stack_says():
  batch = jax.tree.map(np.asarray, make(KEYS, CONFIG, 30))
  depths = []
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"], batch["weights"]
  ):
    stack = []
    for t, x in enumerate(inputs):
      if x < 3:
        stack.append(x)
      else:
        assert stack.pop() == x - 3
      depths.append(len(stack))
      assert len(stack) <= 4
      if t + 1 < len(inputs):
        assert weights[t] == (inputs[t + 1] >= 3)
      assert targets[t] == (3 + stack[-1] if weights[t] else 0)
    assert weights.any()
  assert set(depths) == {0, 1, 2, 3, 4}


def test_one_kind_and_lengths_within_which_nothing_closes_are_refused():
  with pytest.raises(ValueError, match="num_kinds >= 2; got 1"):
    bounded_dyck.BoundedDyckConfig(num_kinds=1)
  with pytest.raises(ValueError, match="depth >= 1; got 0"):
    bounded_dyck.BoundedDyckConfig(depth=0)
  with pytest.raises(ValueError, match="sequence_length >= 4; got 3"):
    make(KEYS, CONFIG, 3)
