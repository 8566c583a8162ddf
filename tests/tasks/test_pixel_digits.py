import jax
import numpy as np
import pytest
from sklearn import datasets

from jaxseq import data, tasks
from jaxseq.tasks import pixel_digits
from jaxseq.tasks.pixel_digits import PixelDigitsConfig

DATA = datasets.load_digits()
HELD_OUT = {tuple(row) for row in DATA.data[4::5]}
LABELS = dict(zip(map(tuple, DATA.data), DATA.target))
KEYS = jax.random.split(jax.random.key(0), 300)
make = jax.jit(pixel_digits.batch, static_argnums=(1, 2))


def counts(inputs):
  return [tuple(row) for row in np.round(16 * np.asarray(inputs)[..., 0])]


@pytest.mark.parametrize("held_out", [False, True])
def test_digits_have_their_labels_and_those_held_out_are_seen_in_no_other(held_out):
  batch = make(KEYS, PixelDigitsConfig(held_out=held_out), 64)
  rows = counts(batch["inputs"])
  assert [LABELS[row] for row in rows] == batch["targets"].tolist()
  assert {row in HELD_OUT for row in rows} == {held_out}
  assert np.bincount(batch["targets"]).min() > 15


def test_a_source_evaluates_on_the_digits_held_out():
  source = data.make("pixel_digits", held_out_examples=40)
  evaluated = [row for b in source.evaluation(20, 64) for row in counts(b["inputs"])]
  assert len(evaluated) == 40 and HELD_OUT.issuperset(evaluated)
  assert HELD_OUT.isdisjoint(counts(next(source.train(20, 64, seed=0))["inputs"]))
  parity = tasks.task("parity").config()
  assert tasks.held_out(parity) is parity


def test_permuted_pixels_are_in_one_order_for_all_images():
  plain = np.asarray(make(KEYS, PixelDigitsConfig(), 64)["inputs"])[..., 0]
  mixed = np.asarray(make(KEYS, PixelDigitsConfig(permuted=True), 64)["inputs"])[..., 0]
  assert not np.array_equal(plain, mixed)
  np.testing.assert_array_equal(
    *(np.array(sorted(x.T.tolist())) for x in (plain, mixed))
  )


def test_larger_images_show_each_pixel_as_a_square():
  small = make(KEYS, PixelDigitsConfig(), 64)["inputs"].reshape(-1, 8, 8)
  large = make(KEYS, PixelDigitsConfig(), 576)["inputs"].reshape(-1, 24, 24)
  np.testing.assert_array_equal(large, np.kron(small, np.ones((3, 3))))


def test_what_does_not_fit_is_refused():
  for length in (0, 65, 100):
    with pytest.raises(ValueError, match=f"sequence_length 64 k.2, .* got {length}"):
      pixel_digits.batch(KEYS, PixelDigitsConfig(), length)
  with pytest.raises(ValueError, match="held_out_examples >= 1; got 0"):
    PixelDigitsConfig(held_out_examples=0)
