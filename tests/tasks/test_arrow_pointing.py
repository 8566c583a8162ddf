import functools

import jax
import numpy as np
import pytest
from scipy import ndimage

from jaxseq.tasks import arrow_pointing

CONFIG = arrow_pointing.ArrowPointingConfig(
  radius=(15, 20), arrow_length=(35, 40), arrow_width=(2, 3), held_out_examples=3
)


@functools.cache
def examples(length):
  run = jax.jit(arrow_pointing.batch, static_argnums=(1, 2))
  batch = run(jax.random.split(jax.random.key(0), 100), CONFIG, length)
  return jax.tree.map(np.asarray, batch)


def images(batch):
  """The patches put together."""
  side = round(batch["inputs"].shape[1] ** 0.5)
  rows = batch["inputs"].reshape(-1, side, side, 16, 16)
  return rows.transpose(0, 1, 3, 2, 4).reshape(-1, 16 * side, 16 * side)


def measured(image):
  """How far the line ahead of the arrow passes the disc's centre, in its radii."""
  parts, count = ndimage.label(image == 0, np.ones((3, 3)))
  assert count == 2
  arrow, disc = sorted((np.argwhere(parts == i + 1) for i in range(2)), key=len)
  radius = (len(disc) / np.pi) ** 0.5
  assert 14.5 < radius < 20.5
  centred = arrow - arrow.mean(0)
  axis = np.linalg.svd(centred, full_matrices=False)[2][0]
  # The head's pixels stand together at one end: that of the smaller distances.
  ends = centred @ axis
  if ends.max() > -ends.min():
    axis = -axis
  to_disc = disc.mean(0) - arrow.mean(0)
  ahead, aside = to_disc @ axis, to_disc @ (axis[1], -axis[0])
  return abs(aside) / radius if ahead > 0 else np.inf


@pytest.mark.parametrize("length", [100, 225])
def test_the_arrow_in_the_image_points_as_the_label_says(length):
  batch = examples(length)
  assert set(np.unique(batch["inputs"])) == {0, 1}
  passes = np.array([measured(image) for image in images(batch)])
  pointing = batch["targets"] == 1
  assert 0.35 < pointing.mean() < 0.65
  # None is between 1 / 1.2 and 1.2, but for what the pixels hide.
  assert (pointing == (passes < 1)).all()
  assert (np.abs(np.log(passes[np.isfinite(passes)])) > np.log(1.1)).all()


def test_on_a_larger_image_the_two_are_as_large_and_further_apart():
  small, large = (images(examples(length)) for length in (100, 225))
  ink = [(1 - y).sum((1, 2)).mean() for y in (small, large)]
  np.testing.assert_allclose(*ink, rtol=0.1)
  spread = [np.mean([np.argwhere(y == 0).std(0) for y in x]) for x in (small, large)]
  assert spread[1] > 1.4 * spread[0]


def test_what_does_not_fit_is_refused():
  key = jax.random.split(jax.random.key(0), 1)
  with pytest.raises(ValueError, match="square sequence_length; got 99"):
    arrow_pointing.batch(key, CONFIG, 99)
  with pytest.raises(ValueError, match="at least .* = 140 pixels a side; got 128"):
    arrow_pointing.batch(key, CONFIG, 64)
  with pytest.raises(ValueError, match="patch_size >= 1; got 0"):
    arrow_pointing.ArrowPointingConfig(patch_size=0)
