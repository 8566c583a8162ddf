import jax
import numpy as np
import pytest

from jaxseq.tasks import in_context_recall

CONFIGS = (
  in_context_recall.InContextRecallConfig(vocab_size=10),
  in_context_recall.NoisyRecallConfig(
    vocab_size=14, noise_vocab_size=4, noise_fraction=0.4
  ),
  in_context_recall.FuzzyRecallConfig(vocab_size=8, max_value_tokens=2),
)
make = jax.jit(in_context_recall.batch, static_argnums=(1, 2))


def solve(row, num_keys, first_noise):
  """The next token where it is told by what was read; 0 elsewhere."""
  table, key, value, answers = {}, (), (), []
  is_value = lambda token: num_keys < token < first_noise
  for token, following in zip(row, [*row[1:], None]):
    if not 0 < token < first_noise:
      answers.append(0)
      continue
    if is_value(token):
      value += (token,)
    else:
      if value:
        table.setdefault(key, value)
        key, value = (), ()
      key += (token,)
    known = table.get(key, ())[len(value) :]
    goes_on = following is None or is_value(following)
    answers.append(known[0] if known and goes_on else 0)
  return answers


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_a_value_is_asked_for_wherever_its_key_has_been_read(config):
  keys = jax.random.split(jax.random.key(0), 300)
  batch = jax.tree.map(np.asarray, make(keys, config, 33))
  first_noise = config.vocab_size - config.noise_vocab_size
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"].tolist(), batch["weights"]
  ):
    assert targets == solve(inputs, config.num_keys, first_noise)
    np.testing.assert_array_equal(weights, np.array(targets) > 0)
  assert batch["weights"][:, -1].all() and batch["weights"].sum(1).max() > 4
  inputs, padded = batch["inputs"], batch["inputs"] == 0
  assert (np.diff(padded.astype(int), axis=1) <= 0).all()  # At the beginning only.
  most = config.max_key_tokens + config.max_value_tokens
  assert padded.sum(1).max() == (0 if most == 2 else 2 * most - 3)
  noisy = (inputs >= first_noise).mean()
  # One pair in 16 is never noise, nor is the query.
  assert abs(noisy - config.noise_fraction * 15 / 16) < 0.03
  assert set(np.unique(inputs)) - {0} == set(range(1, config.vocab_size))


def test_keys_have_all_sizes():
  (config,) = CONFIGS[2:]
  keys = jax.random.split(jax.random.key(1), 300)
  inputs = np.asarray(make(keys, config, 33)["inputs"])
  is_key = (inputs > 0) & (inputs <= config.num_keys)
  rows = ["".join(" k"[int(x)] for x in row) for row in is_key]
  sizes = [len(run) for run in " ".join(rows).split()]
  share = np.bincount(sizes, minlength=4)[1:] / len(sizes)
  np.testing.assert_allclose(share, [1 / 3] * 3, atol=0.04)


@pytest.mark.parametrize(
  "wrong, message",
  [
    (dict(noise_fraction=1.0), "0 <= noise_fraction < 1; got 1.0"),
    (dict(noise_fraction=0.1), "noise_vocab_size >= 1; got 0"),
    (dict(vocab_size=2), "vocab_size >= 3; got 2"),
    (dict(max_key_tokens=0), "max_key_tokens >= 1; got 0"),
    (dict(held_out_examples=0), "held_out_examples >= 1; got 0"),
  ],
)
def test_wrong_fields_are_refused(wrong, message):
  with pytest.raises(ValueError, match=f"in_context_recall needs {message}"):
    in_context_recall.InContextRecallConfig(**wrong)


def test_the_shortest_sequence_is_a_pair_and_its_query():
  keys = jax.random.split(jax.random.key(0), 4)
  (fuzzy,) = CONFIGS[2:]
  assert (make(keys, fuzzy, 9)["weights"].sum(1) >= 1).all()
  with pytest.raises(
    ValueError, match="fuzzy_recall needs sequence_length >= 9; got 8"
  ):
    in_context_recall.batch(keys, fuzzy, 8)
