import jax
import numpy as np
import pytest

from jaxseq.tasks import selective_copying

CONFIG = selective_copying.SelectiveCopyingConfig(vocab_size=7, num_tokens=5)


def test_the_targets_are_the_tokens_among_the_noise_in_their_order():
  keys = jax.random.split(jax.random.key(0), 500)
  batch = jax.tree.map(np.asarray, selective_copying.batch(keys, CONFIG, 21))
  seen = np.zeros(21)
  for inputs, targets, weights in zip(
    batch["inputs"], batch["targets"], batch["weights"]
  ):
    said = [t for t in inputs[:16] if t != selective_copying.NOISE]
    assert len(said) == 5 and set(said) <= set(range(1, 6))
    assert targets[16:].tolist() == said and not targets[:16].any()
    assert (inputs[16:] == 6).all()
    assert weights.tolist() == [0] * 16 + [1] * 5
    seen += inputs != 0
  # Each of 16 places holds a token in 5/16 of the rows, give or take 0.02.
  np.testing.assert_allclose(seen[:16] / 500, 5 / 16, atol=0.09)


@pytest.mark.parametrize(
  "wrong", [dict(vocab_size=2), dict(num_tokens=0), dict(held_out_examples=0)]
)
def test_wrong_fields_are_refused(wrong):
  ((name, value),) = wrong.items()
  with pytest.raises(ValueError, match=f"{name} >= .; got {value}"):
    selective_copying.SelectiveCopyingConfig(**wrong)


def test_a_length_without_place_for_the_answers_is_refused():
  with pytest.raises(ValueError, match="sequence_length >= 10; got 9"):
    selective_copying.batch(jax.random.split(jax.random.key(0), 1), CONFIG, 9)
