import jax
import numpy as np
import pytest
from sklearn import datasets

from jaxseq.tasks import moving_digits
from jaxseq.tasks.moving_digits import MovingDigitsConfig

SIZE, LENGTH = 24, 200


def videos(**fields):
  config = MovingDigitsConfig(size=SIZE, **fields)
  run = jax.jit(moving_digits.batch, static_argnums=(1, 2))
  batch = run(jax.random.split(jax.random.key(0), 6), config, LENGTH)
  return jax.tree.map(np.asarray, batch)


def trimmed(image):
  rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
  return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_a_digit_flies_at_one_speed_and_bounces_off_the_border():
  frames = videos(num_digits=1)["inputs"].reshape(-1, LENGTH, SIZE, SIZE)
  mean = lambda spec: np.einsum(spec, frames, np.arange(SIZE)) / frames.sum((2, 3))
  centres = np.stack([mean("btrc,r->bt"), mean("btrc,c->bt")], axis=-1)
  moved = centres - centres[:, :1]
  np.testing.assert_allclose(moved, np.round(moved), atol=1e-4)
  moved = np.round(moved).astype(int)
  for video, shifts in zip(frames, moved):
    for frame, shift in zip(video, shifts):
      np.testing.assert_array_equal(frame, np.roll(video[0], shift, (0, 1)))
  way = SIZE - 8
  np.testing.assert_array_equal(np.ptp(moved, axis=1).max(-1), way)
  speed = np.hypot(*np.abs(np.diff(moved, axis=1)).mean(1).T)
  # Where it turns back within a step, half of the step is lost: 0.15 / 2 of the way.
  assert (0.9 * 0.15 * way < speed).all() and (speed < 0.15 * way).all()


def test_digits_of_held_out_videos_are_seen_in_no_other():
  images = datasets.load_digits().images / 16
  held_out = np.arange(len(images)) % 5 == 4
  for config in (False, True):
    inputs = videos(num_digits=1, held_out=config)["inputs"]
    for frame in inputs[:, 0].reshape(-1, SIZE, SIZE):
      digit = trimmed(frame)
      same = [np.array_equal(trimmed(image), digit) for image in images]
      assert set(held_out[same]) == {config}


def test_digits_that_meet_hide_each_other():
  batch = videos(num_digits=2)
  np.testing.assert_array_equal(batch["targets"][:, :-1], batch["inputs"][:, 1:])
  assert batch["inputs"].min() == 0 and batch["inputs"].max() == 1
  ink = batch["inputs"].sum(-1)
  shares = ink / ink.max(1, keepdims=True)
  assert (shares == 1).mean() > 0.3 and shares.min() < 0.9


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="size >= 8; got 7"):
    MovingDigitsConfig(size=7)
  with pytest.raises(ValueError, match="num_digits >= 1; got 0"):
    MovingDigitsConfig(num_digits=0)
  keys = jax.random.split(jax.random.key(0), 1)
  with pytest.raises(ValueError, match="sequence_length >= 1; got 0"):
    moving_digits.batch(keys, MovingDigitsConfig(), 0)
