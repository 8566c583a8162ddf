import jax
import numpy as np
import pytest

from jaxseq.tasks import phone_book

CONFIG = phone_book.PhoneBookConfig(num_names=3, number_length=4)
KEYS = jax.random.split(jax.random.key(0), 300)
make = jax.jit(phone_book.batch, static_argnums=(1, 2))


@pytest.mark.parametrize("length, entries", [(12, 1), (35, 4), (60, 9)])
def test_the_number_is_the_one_beside_the_name(length, entries):
  batch = jax.tree.map(np.asarray, make(KEYS, CONFIG, length))
  asked = []
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"].tolist(), batch["weights"]
  ):
    bar = inputs.index(13)
    book = [inputs[i : i + 6] for i in range(0, bar, 6)]
    names = [tuple(entry[:2]) for entry in book]
    numbers = dict(zip(names, [entry[2:] for entry in book]))
    assert len(numbers) == entries and {10, 11, 12} >= {n for ns in names for n in ns}
    name = tuple(inputs[bar + 1 : bar + 3])
    number = numbers[name]
    assert max(number) < 10
    assert inputs[bar + 3 :] == number[:-1] + [13] * (length % 6)
    told = targets[bar + 2 : bar + 6]
    assert told == number and sum(told) == sum(targets)
    where = np.arange(length)
    np.testing.assert_array_equal(weights, (where > bar + 1) & (where < bar + 6))
    asked.append(names.index(name))
  share = np.bincount(asked, minlength=entries) / len(KEYS)
  np.testing.assert_allclose(share, 1 / entries, atol=0.1)


@pytest.mark.parametrize("wrong", ["num_names", "number_length", "held_out_examples"])
def test_wrong_fields_are_refused(wrong):
  with pytest.raises(ValueError, match=f"phone_book needs {wrong} >= 1; got 0"):
    phone_book.PhoneBookConfig(**{wrong: 0})


def test_lengths_without_an_entry_or_past_the_names_are_refused():
  with pytest.raises(ValueError, match="sequence_length >= 12; got 11"):
    phone_book.batch(KEYS, CONFIG, 11)
  with pytest.raises(ValueError, match=r"num_names \*\* 2 >= 10, .* got num_names = 3"):
    phone_book.batch(KEYS, CONFIG, 66)
