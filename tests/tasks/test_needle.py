import jax
import numpy as np
import pytest

from jaxseq.tasks import needle

KEYS = jax.random.split(jax.random.key(0), 400)
NEEDLES = dict(num_needles=3, num_keys=4, number_length=2, filler_vocab_size=5)
CONFIGS = (
  needle.NeedleConfig(**NEEDLES),
  needle.NeedleConfig(**NEEDLES, depth=0.5),
  needle.PasskeyConfig(number_length=3, filler_vocab_size=4),
)
make = jax.jit(needle.batch, static_argnums=(1, 2))


@pytest.mark.parametrize("config", CONFIGS)
def test_the_number_is_the_one_behind_its_key(config):
  n, k = config.num_needles, config.number_length
  length = 24
  batch = jax.tree.map(np.asarray, make(KEYS, config, length))
  first_filler = 10 + config.num_keys
  depths = []
  for inputs, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist()):
    at = [t for t in range(length) if 10 <= inputs[t] < first_filler]
    *told, query = at
    numbers = {inputs[t]: inputs[t + 1 : t + 1 + k] for t in told}
    assert len(numbers) == n and query == length - k
    number = numbers[inputs[query]]
    assert max(number) < 10 and inputs[query + 1 :] == number[:-1]
    assert targets == [0] * query + number
    filler = [t for t in range(length) if inputs[t] >= first_filler]
    assert len(filler) == length - n * (k + 1) - k
    if config.filler == "repeated":
      assert [inputs[t] - first_filler for t in filler] == [t % 4 for t in filler]
    place = [t for t in told if inputs[t] == inputs[query]][0]
    depths.append(np.mean([t < place for t in filler]))
  assert (batch["weights"] == (np.arange(length) >= length - k)).all()
  if config.depth is None:
    assert min(depths) == 0 and max(depths) == 1 and abs(np.mean(depths) - 0.5) < 0.06
  else:
    np.testing.assert_allclose(depths, config.depth, atol=0.05)


@pytest.mark.parametrize(
  "wrong, message",
  [
    (dict(num_needles=0), "num_needles >= 1; got 0"),
    (dict(num_needles=17), "num_keys >= 17; got 16"),
    (dict(number_length=0), "number_length >= 1; got 0"),
    (dict(filler_vocab_size=0), "filler_vocab_size >= 1; got 0"),
    (dict(filler="none"), "filler in .'random', 'repeated'.; got 'none'"),
    (dict(depth=1.5), "depth None or 0 to 1; got 1.5"),
    (dict(held_out_examples=0), "held_out_examples >= 1; got 0"),
  ],
)
def test_wrong_fields_are_refused(wrong, message):
  with pytest.raises(ValueError, match=f"needle needs {message}"):
    needle.NeedleConfig(**wrong)


def test_the_shortest_sequence_has_no_filler():
  (passkey,) = CONFIGS[2:]
  inputs = np.asarray(make(KEYS, passkey, 7)["inputs"])
  assert (inputs < 11).all() and (inputs[:, [0, 4]] == 10).all()
  with pytest.raises(ValueError, match="passkey needs sequence_length >= 7; got 6"):
    needle.batch(KEYS, passkey, 6)
