import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops.grid import plstm_2d as module

BUDGET = 3e-6  # Of float32 against float64, as a share of the largest value.
FORMS = sorted(set(module.IMPLEMENTATIONS) - {"recurrent"})
GRID = (5, 7)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
  """So that the chunked form has many of them."""
  monkeypatch.setattr(module, "TILE_SIZE", 4)


def case(grid, seed=0, directions=4, heads=2):
  rng = np.random.default_rng(seed)
  shape = (2, math.prod(grid), heads)
  q, k, v = (rng.normal(size=(*shape, n)) for n in (3, 3, 5))
  source, mark = (rng.normal(size=(*shape, directions, 2)) for _ in range(2))
  transition = rng.uniform(-1, 1, (*shape, directions, 2, 2))
  # Columns of |T| with sums of up to one, some of them one exactly.
  sums = np.abs(transition).sum(-2, keepdims=True)
  transition /= np.where(rng.random(sums.shape) < 0.5, sums, np.maximum(sums, 1))
  return q, k, v, source, transition, mark, rng.normal(size=shape)


def documents(grid):
  """Two in each row, after or between padding."""
  T = math.prod(grid)
  ids = np.ones((2, T), np.int32)
  ids[0, T // 2 :], ids[1, T // 3 :] = 2, 3
  ids[0, : T // 5], ids[1, T - T // 4 :] = 0, 0
  return ids


def loop(q, k, v, source, transition, mark, direct, grid, ids=None):
  """The recurrence in numpy, float64: node by node, each pushed along its edges."""
  B, T, H, K = q.shape
  R, C = grid
  o = np.zeros(v.shape)
  for b, h, d in np.ndindex(B, H, source.shape[3]):
    right, down = (-1 if d % 2 else 1), (-1 if d // 2 else 1)
    state = {}
    for row in range(R)[::down]:
      for column in range(C)[::right]:
        t = row * C + column
        if ids is not None and ids[b, t] == 0:
          continue
        froms = [(row, column - right), (row - down, column)]
        entering = np.zeros((2, K, v.shape[-1]))
        for e, (r, c) in enumerate(froms):
          inside = 0 <= r < R and 0 <= c < C
          if inside and (ids is None or ids[b, r * C + c] == ids[b, t]):
            entering[e] = state[r, c][e]
        own = np.outer(k[b, t, h], v[b, t, h])
        state[row, column] = np.tensordot(transition[b, t, h, d], entering, 1)
        state[row, column] += source[b, t, h, d][:, None, None] * own
        read = np.tensordot(mark[b, t, h, d], entering, 1)
        if d == 0:
          read = read + direct[b, t, h] * own
        o[b, t, h] += q[b, t, h] @ read / K**0.5
  return o


@functools.partial(jax.jit, static_argnames=("grid", "form"))
def run(args, grid, ids=None, form="auto"):
  return ops.plstm_2d(*args, grid=grid, segment_ids=ids, implementation=form)


def error(got, want):
  return np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max()


def single(args):
  return [jnp.asarray(x, jnp.float32) for x in args]


@pytest.mark.parametrize("grid", [(1, 1), (1, 13), (9, 3)])
def test_every_form_is_the_loop(grid):
  args = case(grid)
  want = loop(*args, grid)
  for form in module.IMPLEMENTATIONS:
    assert error(run(single(args), grid, form=form), want) < BUDGET, form


def test_no_form_lets_documents_meet():
  args, ids = case(GRID), documents(GRID)
  want = loop(*args, GRID, ids)
  padding = lambda x: (ids == 0).reshape(*ids.shape, *[1] * (x.ndim - 2))
  spoiled = [np.where(padding(x), np.nan, x) for x in args]
  for form in module.IMPLEMENTATIONS:
    assert error(run(single(spoiled), GRID, ids, form), want) < BUDGET, form


def test_gradients_are_those_of_the_definition_in_float64():
  args, ids = case(GRID), documents(GRID)

  @functools.partial(jax.jit, static_argnums=1)
  def gradients(args, form):
    loss = lambda args: jnp.sum(jnp.sin(run(args, GRID, ids, form)))
    return jax.grad(loss)(args)

  with jax.enable_x64():
    wide = [jnp.asarray(x) for x in args]
    want = [np.asarray(g) for g in gradients(wide, "recurrent")]
    for form in FORMS:
      assert max(map(error, gradients(wide, form), want)) < 1e-12, form
  for form in FORMS:
    assert max(map(error, gradients(single(args), form), want)) < BUDGET, form


DISTANCE = np.indices(GRID).sum(0)


def impulse(transition):
  """What each node reads of both edges, if the first writes one to both of its own."""
  T = math.prod(GRID)
  one, none = jnp.ones((1, T, 1, 1)), jnp.zeros((1, T, 1))
  source = jnp.zeros((1, T, 1, 1, 2)).at[0, 0].set(1)
  transition = jnp.asarray(transition, jnp.float32).reshape(1, T, 1, 1, 2, 2)
  args = (one, one, one, source, transition, jnp.ones_like(source), none)
  return np.stack(
    [run(args, GRID, form=f).reshape(GRID) for f in module.IMPLEMENTATIONS]
  )


def test_transitions_of_one_count_the_paths():
  want = np.vectorize(math.comb)(DISTANCE, np.indices(GRID)[0])
  want[0, 0] = 0  # No edge leads to the first node.
  np.testing.assert_allclose(impulse(np.ones((*GRID, 2, 2))), [want] * 3, rtol=1e-6)


def test_in_p_mode_the_nodes_at_one_distance_share_what_was_written():
  rng = np.random.default_rng(0)
  angle = rng.uniform(size=(*GRID, 1))
  transition = np.stack([angle, 1 - angle], axis=-2) * np.ones(2)
  share = rng.uniform(-1, 1, (*GRID, 1, 1))
  near = range(1, min(GRID))  # Further diagonals of nodes are cut off by the border.
  sums = lambda y: np.array([np.abs(y[:, DISTANCE == d]).sum(-1) for d in near])
  np.testing.assert_allclose(sums(impulse(transition)), 2, rtol=1e-5)
  assert sums(impulse(share * transition)).max() <= 2


def test_in_d_mode_it_reaches_all_nodes_and_grows_at_none():
  rng = np.random.default_rng(0)
  for turn in ((0, 1), (1, 0)):
    transition = np.ones((*GRID, 2, 2))
    transition[:, :, *turn] = 0
    np.testing.assert_array_equal(impulse(transition)[:, DISTANCE > 0], 1)
    share = rng.uniform(-1, 1, transition.shape)
    assert np.abs(impulse(share * transition)).max() <= 1


def test_on_one_row_it_is_a_scalar_decay_read_before_it_is_written():
  args = single(case((1, 13), directions=1))
  q, k, v, source, transition, mark, direct = args
  decay, s = transition[..., 0, 0, 0], source[..., 0, :1]
  mark = mark.at[..., 0].set(decay[..., None])
  got = run((q, k, v, source, transition, mark, direct), (1, 13))
  after, _ = ops.signed_scalar_decay(q, s * k, v, decay)
  own = (direct[..., None] - s) * jnp.sum(q * k, axis=-1, keepdims=True) * v
  np.testing.assert_allclose(got, after + own / 3**0.5, atol=1e-5)


def test_bfloat16_inputs_are_summed_in_float32():
  args = [jnp.asarray(x, jnp.bfloat16) for x in case(GRID)]
  want = loop(*(np.asarray(x, np.float64) for x in args), GRID)
  for form in module.IMPLEMENTATIONS:
    got = run(args, GRID, form=form)
    assert got.dtype == jnp.bfloat16
    assert error(got, want) < 1e-2, form


def test_what_does_not_fit_is_named():
  args = [jnp.asarray(x) for x in case((2, 3))]
  with pytest.raises(ValueError, match="a grid of T = 6 nodes; got 2 x 4"):
    run(args, (2, 4))
  wide = [*args[:3], *(jnp.concatenate([x, x], axis=3) for x in args[3:6]), args[6]]
  with pytest.raises(ValueError, match="at most four directions"):
    run(wide, (2, 3))
