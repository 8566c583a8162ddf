import jax
import numpy as np
import pytest

from jaxseq.tasks import flip_flop

make = jax.jit(flip_flop.batch, static_argnums=(1, 2))
KEYS = jax.random.split(jax.random.key(0), 500)


def test_what_is_read_is_what_was_written_last():
  config = flip_flop.FlipFlopConfig(write_probability=0.3, read_probability=0.2)
  batch = jax.tree.map(np.asarray, make(KEYS, config, 40))
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"], batch["weights"]
  ):
    text = "".join("01wri"[x] for x in inputs)
    want = np.zeros(40)
    for t in range(0, 40, 2):
      if text[t] == "r":
        want[t] = int(text[text.rindex("w", 0, t) + 1])
        assert text[t + 1] == str(int(want[t]))
    assert text[0] == "w" and text[38] == "r" and set(text[::2]) <= set("wri")
    assert set(text[1::2]) <= set("01")
    np.testing.assert_array_equal(targets, want)
    np.testing.assert_array_equal(weights, [x == "r" for x in text])
  free = batch["inputs"][:, 2:-2:2]
  shares = [(free == x).mean() for x in (2, 3, 4)]
  np.testing.assert_allclose(shares, [0.3, 0.2, 0.5], atol=0.02)


def test_an_odd_length_ends_in_a_token_that_does_not_count():
  batch = make(KEYS, flip_flop.FlipFlopConfig(), 7)
  assert (batch["inputs"][:, 4] == flip_flop.READ).all()
  assert not batch["inputs"][:, 6].any() and not batch["weights"][:, 6].any()


def test_wrong_odds_and_lengths_are_refused():
  with pytest.raises(ValueError, match="together <= 1; got 0.6 and 0.5"):
    flip_flop.FlipFlopConfig(write_probability=0.6, read_probability=0.5)
  with pytest.raises(ValueError, match="sequence_length >= 4; got 3"):
    make(KEYS, flip_flop.FlipFlopConfig(), 3)
