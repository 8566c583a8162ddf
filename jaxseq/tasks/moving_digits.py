"""Digits that fly through a frame, a small stand-in for Moving-MNIST.

    inputs   frame 1, frame 2, ..., frame T              (Srivastava et al. 2015,
    targets  frame 2, frame 3, ..., frame T + 1           arXiv:1502.04681, sec. 4.1)

Each digit has a place, a direction and one speed, and bounces off the border. Where
digits meet the brighter pixel is seen. Long videos are rolled out far beyond the
lengths trained on: what a model predicts is its next input (ConvS5, Smith et al. 2023,
arXiv:2310.19694, sec. 5.1).

The digits are the 1,797 images of 8 x 8 pixels of scikit-learn. The speed is that of
the script ConvS5's authors use, 0.15 of the way from border to border in a frame.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["DIGIT_SIZE", "MovingDigitsConfig", "batch", "digits", "video"]

DIGIT_SIZE = 8
SPEED = 0.15
HELD_OUT = 5  # One image of so many is seen in held-out data alone.


@dataclasses.dataclass(frozen=True)
class MovingDigitsConfig:
  """The task.

  Attributes:
    size: Rows and columns of a frame.
    num_digits: Digits in it.
    held_out: Whether the digits are those held out.
  """

  size: int = 16
  num_digits: int = 2
  held_out: bool = False

  def __post_init__(self):
    checks.check_at_least("moving_digits", 1, num_digits=self.num_digits)
    checks.check_at_least("moving_digits", DIGIT_SIZE, size=self.size)


def video(
  key: PRNGKeyArray, config: MovingDigitsConfig, length: int
) -> Float[Array, "T S S"]:
  """One video in [0, 1].

  Args:
    key: A random key.
    config: The task.
    length: T, frames.

  Raises:
    ValueError: If scikit-learn is not installed.
  """
  all_images, _ = digits(config.held_out)
  all_images = jnp.asarray(all_images)
  n = config.num_digits
  image_key, place_key, angle_key = jax.random.split(key, 3)
  images = all_images[jax.random.randint(image_key, (n,), 0, len(all_images))]
  angle = jax.random.uniform(angle_key, (n,)) * 2 * np.pi
  velocity = SPEED * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
  start = jax.random.uniform(place_key, (n, 2))
  way = start + jnp.arange(length)[:, None, None] * velocity
  place = 1 - jnp.abs(way % 2 - 1)  # There and back: bounces at 0 and at 1.
  corner = jnp.round(place * (config.size - DIGIT_SIZE)).astype(jnp.int32)
  drawn = jax.vmap(jax.vmap(functools.partial(_draw, config.size)), in_axes=(None, 0))
  return jnp.max(drawn(images, corner), axis=1)


def _draw(size, image, corner):
  empty = jnp.zeros((size, size), image.dtype)
  return jax.lax.dynamic_update_slice(empty, image, tuple(corner))


@functools.cache
def digits(held_out: bool) -> tuple[np.ndarray, np.ndarray]:
  """The images [N, 8, 8] in [0, 1], and their classes [N].

  Args:
    held_out: Whether those that are held out, or all others.

  Raises:
    ValueError: If scikit-learn is not installed.
  """
  try:
    from sklearn import datasets
  except ImportError as error:
    raise ValueError(
      "digits need scikit-learn, which is not installed: pip install scikit-learn"
    ) from error
  data = datasets.load_digits()
  images = data.images.astype(np.float32) / 16  # Pixels are counts up to 16.
  chosen = np.arange(len(images)) % HELD_OUT == HELD_OUT - 1
  return images[chosen == held_out], data.target[chosen == held_out]


def batch(
  keys: PRNGKeyArray, config: MovingDigitsConfig, length: int
) -> dict[str, Array]:
  """Videos, each frame a token and the next one its target; to be jitted.

  Args:
    keys: Random keys [B], one for each video.
    config: The task.
    length: T, at least 1.

  Returns:
    inputs and targets [B, T, size^2], float32, pixels row by row; weights and
    segment_ids [B, T].

  Raises:
    ValueError: If there would be no frame, or scikit-learn is not installed.
  """
  checks.check_at_least("moving_digits", 1, sequence_length=length)
  frames = jax.vmap(lambda key: video(key, config, length + 1))(keys)
  frames = frames.reshape(*frames.shape[:2], -1)
  return dict(
    inputs=frames[:, :-1],
    targets=frames[:, 1:],
    weights=jnp.ones((len(frames), length), jnp.float32),
    segment_ids=jnp.ones((len(frames), length), jnp.int32),
  )
