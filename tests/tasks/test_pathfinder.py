import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.tasks import pathfinder
from jaxseq.tasks.pathfinder import PathfinderConfig

CONFIG = PathfinderConfig(num_dashes=8, num_distractors=4, distractor_dashes=3)
SIZE, ROWS = 96, 40  # A step is 11 pixels.


@pytest.fixture(scope="module")
def images():
  """Of each row: inputs, label, and the image of each path without gaps or dots."""

  def row(key):
    dashed, joined = pathfinder.image(key, CONFIG, SIZE)
    long, distractors, *_ = pathfinder.scene(key, CONFIG)
    whole = lambda path: pathfinder.draw(path[:-1], path[1:], 0.022, SIZE)
    whole = jnp.concatenate([jax.vmap(whole)(long), jax.vmap(whole)(distractors)])
    return dashed, joined, whole

  keys = jax.random.split(jax.random.key(0), ROWS)
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(row))(keys))


def pieces(ink):
  """The connected pixels, one set of (row, column) for each piece."""
  left, found = set(zip(*np.nonzero(ink))), []
  while left:
    edge = [left.pop()]
    piece = set(edge)
    while edge:
      row, column = edge.pop()
      near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
      left -= near
      piece |= near
      edge += near
    found.append(piece)
  return found


def dots(dashed):
  """Where there is ink in each of 5 x 5 pixels: lines are too thin for that."""
  around = np.lib.stride_tricks.sliding_window_view(dashed > 0.5, (5, 5))
  return [
    tuple(np.mean(list(piece), axis=0).round().astype(int) + 2)
    for piece in pieces(around.all((-1, -2)))
  ]


def test_dots_are_joined_by_a_path_without_gaps_if_the_label_says_so(images):
  for dashed, joined, whole in zip(*images):
    there = [path for path in whole if (path > 0.5).any()]
    found = pieces(np.max(there, axis=0) > 0.5)
    assert len(found) == len(there), "paths touch"
    start, end = dots(dashed)
    (one,), (other,) = ([p for p in found if at in p] for at in (start, end))
    assert (one is other) == joined
  assert 10 < images[1].sum() < 30


def test_dashes_lie_on_the_paths_and_cover_about_half_of_them(images):
  dashed, _, whole = images
  ink, path = dashed > 0.5, whole.max(axis=1) > 0.5
  for row, (first, second) in enumerate(map(dots, dashed)):
    for y, x in (first, second):
      ink[row, y - 5 : y + 6, x - 5 : x + 6] = False
      path[row, y - 5 : y + 6, x - 5 : x + 6] = False
  assert not (ink & ~path).any()
  assert 0.45 < ink.sum() / path.sum() < 0.65


def test_distractors_that_find_no_way_are_left_out(images):
  there = (images[2] > 0.5).any((-1, -2))
  assert there[:, :2].all() and 0.7 < there[:, 2:].mean() < 1


def test_paths_that_find_no_way_end_where_they_are(images):
  config = PathfinderConfig(num_dashes=40, num_distractors=0, step=0.15)
  long, _, dots, _ = jax.jit(pathfinder.scene, static_argnums=1)(
    jax.random.key(0), config
  )
  steps = np.linalg.norm(np.diff(long, axis=1), axis=-1)
  counts = (steps > 0).sum(axis=1)
  assert (1 <= counts).all() and counts.min() < 40
  for path, step, count in zip(long, steps, counts):
    np.testing.assert_allclose(step[:count], 0.15, rtol=1e-5)
    assert (step[count:] == 0).all() and (np.abs(path - 0.5) < 0.5).all()


def test_no_distractors_are_none():
  config = dataclasses.replace(CONFIG, num_distractors=0)
  key = jax.random.key(0)
  _, distractors, *_ = jax.eval_shape(lambda key: pathfinder.scene(key, config), key)
  assert distractors.shape == (0, 4, 2)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="pathfinder needs num_dashes >= 1; got 0"):
    PathfinderConfig(num_dashes=0)
  keys = jax.random.split(jax.random.key(0), 1)
  with pytest.raises(ValueError, match="a square sequence_length; got 1000"):
    pathfinder.batch(keys, PathfinderConfig(), 1000)
  with pytest.raises(ValueError, match="32 pixels a side, a sequence_length of 1024"):
    pathfinder.batch(keys, PathfinderConfig(), 31**2)
