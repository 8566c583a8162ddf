"""Arrow pointing (Poeppel et al. 2025, "pLSTM", arXiv:2506.11997, sec. 5.1).

An image shows an arrow and a disc. Does the arrow point at the disc? Models learn that
on images of one size and are asked on larger ones, where both are as large as before
and further apart.

Places and sizes are drawn as in the authors' code, and those that they take are the
defaults: a pointing arrow's line comes within r / 1.2 of the disc's centre, that of
another stays 1.2 r away, or leads away from it. Their images have 192 or 384 pixels a
side. A token is a patch; the patches are read row by row.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["ArrowPointingConfig", "batch", "image"]

CLEARANCE = 1.2  # Between a hit and a near miss lie r / 1.2 and 1.2 r.
DISTANCE = 2  # Along each side, arrow and disc are so many r apart or more.
HEAD_SHARE = 1 / 2.5  # Length of the head's two lines, as a share of the arrow's.
HEAD_ANGLE = 0.5  # Radians between them and the arrow.


@dataclasses.dataclass(frozen=True)
class ArrowPointingConfig:
  """The task; all lengths are in pixels.

  Attributes:
    patch_size: Pixels along a side of a patch.
    radius: Least and largest r of the disc.
    arrow_length: Least and largest.
    arrow_width: Least and largest, of the arrow's lines.
    margin: Between the border and the centres of arrow and disc.
    held_out_examples: Number of images evaluated.
  """

  patch_size: int = 16
  radius: tuple[float, float] = (15.0, 30.0)
  arrow_length: tuple[float, float] = (15.0, 30.0)
  arrow_width: tuple[float, float] = (2.0, 4.0)
  margin: float = 30.0
  held_out_examples: int = 1024

  num_outputs = 2
  chance = 0.5

  def __post_init__(self):
    checks.check_at_least(
      "arrow_pointing",
      1,
      patch_size=self.patch_size,
      held_out_examples=self.held_out_examples,
    )

  @property
  def num_inputs(self) -> int:
    return self.patch_size**2


def image(
  key: PRNGKeyArray, config: ArrowPointingConfig, size: int
) -> tuple[Float[Array, "S S"], Int[Array, ""]]:
  """One image, black (0) on white (1), and 1 if the arrow points at the disc.

  Args:
    key: A random key.
    config: The task.
    size: Pixels S along a side.

  Raises:
    ValueError: If the image leaves no place for the disc.
  """
  free = size - 2 * config.margin
  least = 2 * DISTANCE * config.radius[1]
  if free < least:
    raise ValueError(
      "arrow_pointing needs images with place for the disc, of at least 2 margin + "
      f"{2 * DISTANCE} radius = {least + 2 * config.margin:g} pixels a side; got {size}"
    )
  keys = jax.random.split(key, 7)
  between = lambda key, low, high: jax.random.uniform(key, (), jnp.float32, low, high)
  r = between(keys[0], *config.radius)
  arrow = jax.random.uniform(keys[1], (2,)) * free
  gap = DISTANCE * r
  disc = arrow + gap + (free - 2 * gap) * jax.random.uniform(keys[2], (2,))
  disc = jnp.where(disc > free, disc - free, disc)
  points = jax.random.bernoulli(keys[3])
  x, y = disc - arrow
  clear = jnp.where(points, r / CLEARANCE, r * CLEARANCE)
  half = jnp.arcsin(clear / jnp.hypot(x, y))  # Of the angle between the two tangents.
  low = jnp.where(points, -half, half)
  high = jnp.where(points, half, 2 * math.pi - half)
  angle = jnp.arctan2(y, x) + between(keys[4], low, high)
  length = between(keys[5], *config.arrow_length)
  width = between(keys[6], *config.arrow_width)
  ink = _disc(size, disc + config.margin, r)
  ink |= _arrow(size, arrow + config.margin, angle, length, width)
  return 1 - ink.astype(jnp.float32), points.astype(jnp.int32)


def _pixels(size):
  """Places (x, y) [S, S, 2], y the row."""
  return jnp.stack(jnp.meshgrid(jnp.arange(size), jnp.arange(size)), axis=-1)


def _disc(size, centre, r):
  return jnp.sum((_pixels(size) - centre) ** 2, axis=-1) <= r**2


def _arrow(size, centre, angle, length, width):
  """A line and, from its tip backwards, two shorter ones."""
  turned = lambda angle: jnp.stack([jnp.cos(angle), jnp.sin(angle)])
  tip = centre + length / 2 * turned(angle)
  ink = False
  for turn, share in ((0, 1), (-HEAD_ANGLE, HEAD_SHARE), (HEAD_ANGLE, HEAD_SHARE)):
    along = turned(angle + turn)
    back = tip - _pixels(size)
    behind, beside = back @ along, back @ jnp.stack([-along[1], along[0]])
    on_line = (behind >= 0) & (behind <= share * length)
    ink |= on_line & (jnp.abs(beside) <= width / 2)
  return ink


def batch(
  keys: PRNGKeyArray, config: ArrowPointingConfig, length: int
) -> dict[str, Array]:
  """Images of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each image.
    config: The task.
    length: T, patches of an image, a square number.

  Returns:
    A batch of `data`: inputs [B, T, patch_size^2], targets and weights [B], segment_ids
    [B, T].

  Raises:
    ValueError: If the length is no square, or the image it makes too small.
  """
  side, P = math.isqrt(max(length, 0)), config.patch_size
  if length < 1 or side**2 != length:
    raise ValueError(f"arrow_pointing needs a square sequence_length; got {length}")
  images, targets = jax.vmap(lambda key: image(key, config, side * P))(keys)
  patches = images.reshape(-1, side, P, side, P).swapaxes(2, 3)
  B = len(patches)
  return dict(
    inputs=patches.reshape(B, length, P**2),
    targets=targets,
    weights=jnp.ones(B, jnp.float32),
    segment_ids=jnp.ones((B, length), jnp.int32),
  )
