"""Handwritten digits read a pixel at a time, to classify (Le et al. 2015,
arXiv:1504.00941, sec. 4.2).

A small stand-in for sequential MNIST and its permuted form: the 1,797 images of 8 x 8
pixels of scikit-learn, each pixel enlarged to a square where the length is larger.
Classes are equally likely, and so are the images of one.

As there is no end of keys but of images, other keys do not give other data: what is
held out are the images of `held_out`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxseq.tasks import checks, moving_digits

__all__ = ["PixelDigitsConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class PixelDigitsConfig:
  """The task.

  Attributes:
    permuted: Whether the pixels of all images are shuffled, in one order for all.
    held_out: Whether the images are those held out.
    held_out_examples: Number of sequences evaluated, of some 360 images.
  """

  permuted: bool = False
  held_out: bool = False
  held_out_examples: int = 1024

  num_inputs = 1
  num_outputs = 10
  chance = 0.1

  def __post_init__(self):
    checks.check_at_least("pixel_digits", 1, held_out_examples=self.held_out_examples)


def batch(
  keys: PRNGKeyArray, config: PixelDigitsConfig, length: int
) -> dict[str, Array]:
  """Images of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each image.
    config: The task.
    length: T, 64 k^2 pixels for images enlarged k times.

  Returns:
    A batch of `data`: inputs [B, T, 1] in [0, 1], targets and weights [B], segment_ids
    [B, T].

  Raises:
    ValueError: If the length is another, or scikit-learn is not installed.
  """
  times = math.isqrt(max(length, 0)) // moving_digits.DIGIT_SIZE
  if length < 1 or (times * moving_digits.DIGIT_SIZE) ** 2 != length:
    raise ValueError(
      f"pixel_digits needs sequence_length 64 k^2, as 64 or 256; got {length}"
    )
  images, labels = map(jnp.asarray, moving_digits.digits(config.held_out))
  order = np.arange(length)
  if config.permuted:
    order = np.random.default_rng(0).permutation(length)

  def example(key):
    label_key, image_key = jax.random.split(key)
    label = jax.random.randint(label_key, (), 0, 10)
    those = jnp.where(labels == label, 0, -jnp.inf)
    image = images[jax.random.categorical(image_key, those)]
    return jnp.repeat(jnp.repeat(image, times, 0), times, 1).reshape(-1)[order], label

  pixels, targets = jax.vmap(example)(keys)
  return dict(
    inputs=pixels[..., None],
    targets=targets,
    weights=jnp.ones(targets.shape, jnp.float32),
    segment_ids=jnp.ones(pixels.shape, jnp.int32),
  )
