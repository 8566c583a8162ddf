import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing
from jaxseq.ops import chunks
from jaxseq.ops.ssm import dense_recurrence as module
from jaxseq.ops.ssm.legendre_delay import legendre_delay

BUDGET = 5e-6  # Of float32 against float64, as a share of the largest value.


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(chunks, "size_for", lambda tokens: 8)


def case(T, packed, seed=0, N=6):
  rng = np.random.default_rng(seed)
  A, B = legendre_delay(N, 9.0)
  u, state = rng.normal(size=(2, T, 3)), rng.normal(size=(2, 3, N))
  ids = np.sort(rng.integers(1, 4, (2, T)), axis=1)
  ids[0, : T // 4], ids[1, T - T // 5 :] = 0, 0
  u, state = np.float32(u), np.float32(state)
  return (u, A, B), state, ids if packed else None


def loop(u, A, B, state, ids):
  """The recurrence in numpy, float64."""
  m, out = np.float64(state), np.zeros((*u.shape, len(B)))
  for b in range(len(u)):
    document = None
    for t in range(u.shape[1]):
      token = 1 if ids is None else ids[b, t]
      if token == 0:
        continue
      if document not in (None, token):
        m[b] = 0
      document = token
      m[b] = m[b] @ np.float64(A).T + u[b, t][:, None] * np.float64(B)
      out[b, t] = m[b]
  return out, m


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


def forms(packed):
  return [f for f in module.IMPLEMENTATIONS if f != "fft" or not packed]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("T", [1, 45])
def test_every_form_is_the_loop(T, packed):
  args, state, ids = case(T, packed)
  want = loop(*args, state, ids)
  for form in forms(packed):
    run = lambda args, state, form=form: ops.dense_recurrence(
      *args, initial_state=state, segment_ids=ids, implementation=form
    )
    assert max(map(error, jax.jit(run)(args, state), want)) < BUDGET, form


def test_fft_needs_no_state():
  args, state, _ = case(13, False)
  got = ops.dense_recurrence(*args, implementation="fft")
  assert max(map(error, got, loop(*args, 0 * state, None))) < BUDGET
  with pytest.raises(NotImplementedError, match="packed documents"):
    ids = jnp.ones((2, 13), jnp.int32)
    ops.dense_recurrence(*args, segment_ids=ids, implementation="fft")


@pytest.mark.parametrize("form, packed", [("chunked", True), ("fft", False)])
def test_gradients_are_those_of_the_definition_in_float64(form, packed):
  args, state, ids = case(19, packed)

  def gradients(form):
    def loss(args, state):
      m, last = ops.dense_recurrence(
        *args, initial_state=state, segment_ids=ids, implementation=form
      )
      return jnp.sum(jnp.sin(m)) + jnp.sum(jnp.cos(last))

    return jax.jit(jax.grad(loss, argnums=(0, 1)))

  leaves = lambda tree: [np.asarray(x) for x in jax.tree.leaves(tree)]
  with jax.enable_x64():
    wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (args, state))
    want = leaves(gradients("recurrent")(*wide))
    assert max(map(error, leaves(gradients(form)(*wide)), want)) < 1e-12
  assert max(map(error, leaves(gradients(form)(args, state)), want)) < 2e-5


@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.integers(2, 20), st.integers(1, 19), st.sampled_from(["chunked", "fft"]))
def test_any_split_gives_the_whole(T, cut, form):
  cut = min(cut, T - 1)
  (u, A, B), state, _ = case(T, False, seed=T)
  run = jax.jit(
    lambda u, m: ops.dense_recurrence(u, A, B, initial_state=m, implementation=form)
  )
  whole, last = run(u, state)
  head, between = run(u[:, :cut], state)
  tail, end = run(u[:, cut:], between)
  testing.assert_close((jnp.concatenate([head, tail], 1), end), (whole, last))


def test_a_diagonal_matrix_makes_it_the_diagonal_recurrence():
  (u, _, B), _, _ = case(20, False)
  a = jnp.linspace(-0.9, 0.9, 6)
  m, _ = ops.dense_recurrence(u[..., :1], jnp.diag(a), B, implementation="chunked")
  want, _ = ops.diagonal_recurrence(a, B * u[..., :1])
  testing.assert_close(m[:, :, 0], want)


def test_wrong_shapes_are_named():
  u = jnp.ones((2, 5, 3))
  with pytest.raises(ValueError, match="dense_recurrence needs initial_state .* got"):
    ops.dense_recurrence(u, jnp.eye(4), jnp.ones(4), initial_state=jnp.ones((2, 4, 3)))
  with pytest.raises(ValueError, match=r"needs A \[N, N\] with N = 4"):
    ops.dense_recurrence(u, jnp.eye(3), jnp.ones(4))
  with pytest.raises(ValueError, match="'auto' or one of"):
    ops.dense_recurrence(u, jnp.eye(4), jnp.ones(4), implementation="tree")
