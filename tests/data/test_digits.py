import builtins

import numpy as np
import pytest
from sklearn import datasets

from jaxseq import data


def everything(source):
  """Inputs and classes of the training rows and of the held-out rows."""
  batches = source.train(1, 64, 0)
  count = 1797 - 355
  train = [next(batches) for _ in range(count)]
  held_out = list(source.evaluation(1, 64))
  return [
    tuple(np.concatenate([b[name] for b in part]) for name in ("inputs", "targets"))
    for part in (train, held_out)
  ]


def test_training_and_held_out_images_are_all_the_images_a_fifth_held_out():
  pixels, labels = datasets.load_digits(return_X_y=True)
  (train, train_labels), (held_out, held_out_labels) = everything(data.make("digits"))
  got = np.concatenate([train, held_out])[..., 0] * 16
  got = np.c_[got, np.concatenate([train_labels, held_out_labels])]
  want = np.c_[pixels, labels]
  order = lambda x: x[np.lexsort(x.T)]
  np.testing.assert_array_equal(order(got), order(want))
  for c in range(10):
    assert (held_out_labels == c).sum() == (labels == c).sum() // 5


def test_permuting_moves_the_pixels_of_all_images_alike():
  plain = np.concatenate([b["inputs"] for b in data.make("digits").evaluation(5, 64)])
  source = data.make("digits", permuted=True)
  moved = np.concatenate([b["inputs"] for b in source.evaluation(5, 64)])
  assert (plain != moved).any()
  order = np.random.default_rng(0).permutation(64)
  np.testing.assert_array_equal(moved, plain[:, order])


def test_training_images_have_new_noise_each_time_and_held_out_ones_have_none():
  noisy, still = data.make("digits", noise=0.1), data.make("digits")
  batches, clean = noisy.train(1442, 64, 0), still.train(1442, 64, 0)
  first, second = (
    next(batches)["inputs"] - next(clean)["inputs"] for _ in range(2)
  )  # An epoch each.
  assert abs(first.std() - 0.1) < 1e-3 and abs(second.std() - 0.1) < 1e-3
  assert abs(np.mean(first * second)) < 1e-4
  for got, want in zip(noisy.evaluation(50, 64), still.evaluation(50, 64)):
    np.testing.assert_array_equal(got["inputs"], want["inputs"])
  with pytest.raises(ValueError, match="noise >= 0; got -1"):
    data.make("digits", noise=-1)


def test_another_length_is_refused():
  with pytest.raises(ValueError, match="digits needs sequence_length 64; got 32"):
    data.make("digits").train(4, 32, 0)


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name.partition(".")[0] == "sklearn":
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(ValueError, match="pip install scikit-learn"):
    data.make("digits")
