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


@pytest.mark.parametrize("permuted", [False, True])
def test_training_images_are_moved_by_up_to_the_shift_and_held_out_ones_are_not(
  permuted,
):
  pixels, labels = datasets.load_digits(return_X_y=True)
  images = np.pad((pixels / 16).reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
  corners = [(top, left) for top in range(3) for left in range(3)]
  moved = {corner: images[:, corner[0] :, corner[1] :][:, :8, :8] for corner in corners}
  order = np.random.default_rng(0).permutation(64) if permuted else np.arange(64)
  source = data.make("digits", permuted=permuted, shift=1)
  batch = next(source.train(200, 64, 0))
  seen = []
  for row, label in zip(batch["inputs"][..., 0], batch["targets"]):
    image = np.zeros(64)
    image[order] = row
    near = {
      c: np.abs(m[labels == label] - image.reshape(8, 8)).max((1, 2)).min()
      for c, m in moved.items()
    }
    seen.append(min(near, key=near.get))
    assert near[seen[-1]] < 1e-6
  assert len(set(seen)) == 9
  still = data.make("digits", permuted=permuted)
  for got, want in zip(source.evaluation(50, 64), still.evaluation(50, 64)):
    np.testing.assert_array_equal(got["inputs"], want["inputs"])
  with pytest.raises(ValueError, match=r"shift in \[0, 8\); got 8"):
    data.make("digits", shift=8)


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
