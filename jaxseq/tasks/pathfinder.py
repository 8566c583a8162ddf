"""Pathfinder: are two dots joined? (Linsley et al. 2018, arXiv:1805.08477)

An image shows two long dashed paths that begin near each other, shorter ones that
distract, and two dots: at the start of a long path, and at the end of the same or of
the other one. All else is alike in both classes. One pixel a token, row by row: of the
Long Range Arena (Tay et al. 2020, arXiv:2011.04006), T = 1024 is Pathfinder
and T = 16384 is Path-X. Here all lengths scale with the side, so that Path-X shows the
same drawings finer. (The dashes of the Arena's are a smaller share of it, a `step` of
about 0.08.)

As in the authors' code a path grows by a dash and a gap at a time, to a direction drawn
from p(turn) ~ cos^2(continuity turn) among those that keep clear of all that is there,
so that no two paths touch. Where a long path finds no way, both begin anew; when they
have done so `PATIENCE` times, they end there. A distractor begins at `TRIES` places and
is the first that finds a way; if none does, it is left out.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["PathfinderConfig", "batch", "draw", "image", "scene"]

TURNS = 24  # Directions to choose from.
TRIES, PATIENCE = 8, 200
LEAST_STEP = 3.5  # Pixels; a shorter dash and its gap cannot be told apart.
FAR = 9.0  # Outside the image: where a path is that is not there.

# Shares of a step, which is a dash and a gap.
DASH, WIDTH, RADIUS = 0.4, 0.2, 0.35
APART = 1.75  # The starts of the long paths.
# Nodes and the middles between them stay this far from those of other paths, and so the
# paths sqrt(0.75^2 - 0.25^2) = 0.71 from each other.
CLEARANCE = 0.75
MARGIN = 0.5


@dataclasses.dataclass(frozen=True)
class PathfinderConfig:
  """The task.

  Attributes:
    num_dashes: Of a long path.
    num_distractors: Shorter paths.
    distractor_dashes: Of one of them.
    step: Length of a dash and a gap, as a share of the side.
    continuity: The larger, the straighter: no turn exceeds pi / (2 continuity).
    held_out_examples: Number of images evaluated.
  """

  num_dashes: int = 14
  num_distractors: int = 5
  distractor_dashes: int = 4
  step: float = 0.11
  continuity: float = 1.0
  held_out_examples: int = 1024

  num_inputs = 1
  num_outputs = 2
  chance = 0.5

  def __post_init__(self):
    checks.check_at_least(
      "pathfinder",
      1,
      num_dashes=self.num_dashes,
      distractor_dashes=self.distractor_dashes,
      continuity=self.continuity,
      held_out_examples=self.held_out_examples,
    )
    checks.check_at_least("pathfinder", 0, num_distractors=self.num_distractors)


def scene(
  key: PRNGKeyArray, config: PathfinderConfig
) -> tuple[
  Float[Array, "2 P 2"], Float[Array, "M Q 2"], Float[Array, "2 2"], Int[Array, ""]
]:
  """What is drawn, as places (x, y) in a square of side 1.

  Args:
    key: A random key.
    config: The task.

  Returns:
    Nodes of the two long paths; those of the distractors, outside the square if left
    out; the dots; and 1 if they are joined.
  """
  begin_key, distract_key, dots_key, joined_key = jax.random.split(key, 4)

  def begin(state):
    key, tries, _, _ = state
    key, place_key, angle_key, *keys = jax.random.split(key, 5)
    first = _place(place_key, config)
    angle = 2 * math.pi * jax.random.uniform(angle_key)
    second = first + APART * config.step * _towards(angle)
    one, dashes = _grow(keys[0], config, jnp.zeros((0, 2)), first, config.num_dashes)
    two, others = _grow(keys[1], config, _places(one), second, config.num_dashes)
    least = jnp.where(tries < PATIENCE, config.num_dashes, 1)
    done = jnp.minimum(dashes, others) >= least
    return key, tries + 1, jnp.stack([one, two]), done

  def distract(taken, at):
    i, key = at
    keys = jax.random.split(key, 2 * TRIES).reshape(2, TRIES)
    grown, dashes = jax.vmap(
      lambda place_key, key: _grow(
        key, config, taken, _place(place_key, config), config.distractor_dashes
      )
    )(*keys)
    found = dashes == config.distractor_dashes
    path = jnp.where(found.any(), grown[found.argmax()], FAR)
    new = _places(path)
    return jax.lax.dynamic_update_slice(taken, new, (i * len(new), 0)), path

  state = begin_key, 0, jnp.zeros((2, config.num_dashes + 1, 2)), jnp.bool(False)
  *_, long, _ = jax.lax.while_loop(lambda state: ~state[-1], begin, state)
  free = jnp.full((config.num_distractors * (2 * config.distractor_dashes + 1), 2), FAR)
  taken = jnp.concatenate([free, *map(_places, long)])
  keys = jax.random.split(distract_key, config.num_distractors)
  each = jnp.arange(config.num_distractors), keys
  _, distractors = jax.lax.scan(distract, taken, each)

  start = jax.random.bernoulli(dots_key).astype(jnp.int32)
  joined = jax.random.bernoulli(joined_key).astype(jnp.int32)
  end = jnp.where(joined, start, 1 - start)
  return long, distractors, jnp.stack([long[start, 0], long[end, -1]]), joined


def _grow(key, config, taken, start, num_dashes):
  """Nodes [P, 2] of a path that keeps clear of places [N, 2], and its number of dashes.

  If it finds no way, its last nodes are the same.
  """
  turns = jnp.linspace(-1, 1, TURNS + 2)[1:-1] * math.pi / (2 * config.continuity)
  log_p = 2 * jnp.log(jnp.cos(config.continuity * turns))

  def extend(state, at):
    # The last half step cannot be far from the next and joins the others after it.
    own, last, heading, going = state
    i, key = at
    half = config.step / 2 * _towards(heading + turns)
    new = last[1] + jnp.stack([half, 2 * half], axis=1)  # [TURNS, 2, 2]
    there = jnp.concatenate([taken, own.reshape(-1, 2)])
    clear = _is_clear(config, new, there).all(axis=-1)
    which = jax.random.categorical(key, jnp.where(clear, log_p, -jnp.inf))
    going &= clear.any()
    new = jnp.where(going, new[which], last[1])
    return (own.at[i].set(last), new, heading + turns[which], going), (new[1], going)

  heading_key, key = jax.random.split(key)
  heading = 2 * math.pi * jax.random.uniform(heading_key)
  own = jnp.full((num_dashes, 2, 2), FAR)
  going = _is_clear(config, start, taken)
  state = own, jnp.stack([start, start]), heading, going
  each = jnp.arange(num_dashes), jax.random.split(key, num_dashes)
  _, (nodes, went) = jax.lax.scan(extend, state, each)
  return jnp.concatenate([start[None], nodes]), went.sum()


def _is_clear(config, places, others):
  squares = jnp.sum((places[..., None, :] - others) ** 2, axis=-1)
  apart = jnp.min(squares, axis=-1, initial=FAR) >= (CLEARANCE * config.step) ** 2
  inside = jnp.abs(places - 0.5) <= 0.5 - MARGIN * config.step
  return apart & inside.all(axis=-1)


def _place(key, config):
  margin = MARGIN * config.step
  return jax.random.uniform(key, (2,), minval=margin, maxval=1 - margin)


def _places(nodes):
  """The nodes [P, 2] and the middles between them, [2 P - 1, 2]."""
  middles = (nodes[1:] + nodes[:-1]) / 2
  return jnp.concatenate([nodes, middles])


def _towards(angle):
  return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def draw(
  start: Float[Array, "N 2"], end: Float[Array, "N 2"], width: float, size: int
) -> Float[Array, "S S"]:
  """Lines with round ends, white (1) on black (0), in an image of size^2 pixels.

  Args:
    start: Where they start, (x, y) in a square of side 1.
    end: Where they end.
    width: Of the lines.
    size: S.
  """
  at = (jnp.arange(size) + 0.5) / size
  pixels = jnp.stack(jnp.meshgrid(at, at), axis=-1)[:, :, None]  # [S, S, 1, 2]
  way = end - start
  along = jnp.sum((pixels - start) * way, -1) / jnp.maximum(jnp.sum(way**2, -1), 1e-9)
  nearest = start + jnp.clip(along, 0, 1)[..., None] * way
  distance = jnp.min(jnp.linalg.norm(pixels - nearest, axis=-1), axis=-1)
  return jnp.clip(0.5 + (width / 2 - distance) * size, 0, 1)


def image(
  key: PRNGKeyArray, config: PathfinderConfig, size: int
) -> tuple[Float[Array, "S S"], Int[Array, ""]]:
  """One image, white (1) on black (0), and 1 if its dots are joined.

  Args:
    key: A random key.
    config: The task.
    size: Pixels S along a side.

  Raises:
    ValueError: If a dash and its gap have too few pixels.
  """
  if size * config.step < LEAST_STEP:
    least = math.ceil(LEAST_STEP / config.step)
    raise ValueError(
      f"pathfinder with step {config.step} needs images of {least} pixels a side, a "
      f"sequence_length of {least**2}, or more; got {size}"
    )
  long, distractors, dots, joined = scene(key, config)
  ends = [(p[:-1], p[1:]) for p in (*long, *distractors)]
  start, end = map(jnp.concatenate, zip(*ends))
  gap = (1 - DASH) / 2 * (end - start)
  dashes = draw(start + gap, end - gap, WIDTH * config.step, size)
  return jnp.maximum(dashes, draw(dots, dots, 2 * RADIUS * config.step, size)), joined


def batch(
  keys: PRNGKeyArray, config: PathfinderConfig, length: int
) -> dict[str, Array]:
  """Images of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each image.
    config: The task.
    length: T, pixels of an image, a square number.

  Returns:
    A batch of `data`: inputs [B, T, 1], targets and weights [B], segment_ids [B, T].

  Raises:
    ValueError: If the length is no square, or the image it makes too small.
  """
  size = math.isqrt(max(length, 0))
  if length < 1 or size**2 != length:
    raise ValueError(f"pathfinder needs a square sequence_length; got {length}")
  images, targets = jax.vmap(lambda key: image(key, config, size))(keys)
  B = len(images)
  return dict(
    inputs=images.reshape(B, length, 1),
    targets=targets,
    weights=jnp.ones(B, jnp.float32),
    segment_ids=jnp.ones((B, length), jnp.int32),
  )
