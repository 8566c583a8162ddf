import jax
import numpy as np
import pytest

from jaxseq.tasks import recall

CONFIG = recall.RecallConfig(vocab_size=40, num_pairs=5)
LENGTH = 33
make = jax.jit(recall.batch, static_argnums=(1, 2))


@pytest.fixture(scope="module")
def batch():
  keys = jax.random.split(jax.random.key(0), 2000)
  return jax.tree.map(np.asarray, make(keys, CONFIG, LENGTH))


def test_pairs_are_different_keys_and_values_of_their_halves(batch):
  keys, values = batch["inputs"][:, 0:10:2], batch["inputs"][:, 1:10:2]
  assert keys.min() == 1 and keys.max() == 19
  assert values.min() == 20 and values.max() == 39
  for ids in (keys, values):
    assert (np.diff(np.sort(ids, axis=1), axis=1) > 0).all()
  # Drawn evenly: each of 19 keys is expected in 5/19 of the rows, give or take 0.01.
  share = np.bincount(keys.reshape(-1), minlength=20)[1:] / 2000
  np.testing.assert_allclose(share, 5 / 19, atol=0.05)


def test_each_key_is_asked_for_once_and_its_value_is_the_target(batch):
  for inputs, targets, weights in zip(
    batch["inputs"], batch["targets"], batch["weights"]
  ):
    bound = dict(zip(inputs[0:10:2], inputs[1:10:2]))
    places = np.flatnonzero(weights)
    assert (places >= 10).all() and (places % 2 == 0).all()
    assert {int(inputs[t]) for t in places} == {int(k) for k in bound}
    assert len(places) == 5
    for t in places:
      assert targets[t] == bound[inputs[t]]
    assert not targets[weights == 0].any()
  assert set(np.unique(batch["weights"])) == {0, 1}
  assert (batch["segment_ids"] == 1).all()


def test_gaps_follow_the_power_law(batch):
  """The first pair's gap is one draw from p(g) ~ (g + 1)^(a - 1), g < 11."""
  first = batch["inputs"][:, :1] == batch["inputs"]
  first &= batch["weights"] == 1
  gaps = (first.argmax(axis=1) - 10) // 2
  p = np.arange(1, 12.0) ** (recall.GAP_POWER - 1)
  got = np.bincount(gaps, minlength=11) / 2000
  np.testing.assert_allclose(got, p / p.sum(), atol=0.05)


def test_the_rest_is_drawn_from_the_whole_vocabulary(batch):
  rest = batch["inputs"][:, 10:][batch["weights"][:, 10:] == 0]
  share = np.bincount(rest, minlength=40) / len(rest)
  np.testing.assert_allclose(share, 1 / 40, atol=0.005)


def test_a_batch_is_its_examples():
  keys = jax.random.split(jax.random.key(3), 2)
  example = jax.jit(recall.example, static_argnums=(1, 2))
  both = make(keys, CONFIG, 20)
  for i in range(2):
    for name, x in example(keys[i], CONFIG, 20).items():
      np.testing.assert_array_equal(both[name][i], x)


def test_the_shortest_sequence_is_pairs_and_queries():
  keys = jax.random.split(jax.random.key(3), 2)
  batch = make(keys, CONFIG, 20)
  np.testing.assert_array_equal(batch["weights"][:, 10::2], 1)
  with pytest.raises(ValueError, match="sequence_length >= 4 num_pairs = 20.* got 19"):
    recall.batch(keys, CONFIG, 19)
