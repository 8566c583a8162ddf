import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing
from jaxseq.ops.ssm import block_recurrence as module

FORMS = sorted(set(module.IMPLEMENTATIONS) - {"recurrent"})
BUDGET = 5e-6  # Of float32 against float64, as a share of the largest value.
block_recurrence = jax.jit(ops.block_recurrence, static_argnames="implementation")
N, K = 3, 2


def case(T, seed=0):
  """Turns by any angle, some of modulus one and some of zero; complex states."""
  rng = np.random.default_rng(seed)
  angle, modulus = rng.uniform(0, 2 * np.pi, (2, T, N)), rng.uniform(0, 1, (2, T, N))
  modulus = np.where(rng.random((2, T, N)) < 0.3, 1, modulus)
  cos, sin = modulus * np.cos(angle), modulus * np.sin(angle)
  A = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -1)
  A[rng.random((2, T, N)) < 0.1] = 0
  turned = lambda *shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)
  ids = np.sort(rng.integers(1, 4, (2, T)), axis=1)
  ids[0, : T // 4], ids[1, T - T // 5 :] = 0, 0
  return A, turned(2, T, N, K), turned(2, N, K), ids


def loop(A, x, state, ids):
  """The recurrence in numpy, float64."""
  h, out = state.copy(), np.zeros_like(x)
  document = [None] * len(x)
  for b in range(len(x)):
    for t in range(x.shape[1]):
      if ids is not None and ids[b, t] == 0:
        continue
      if ids is not None and document[b] not in (None, ids[b, t]):
        h[b] = 0
      document[b] = None if ids is None else ids[b, t]
      h[b] = np.einsum("nij,nj->ni", A[b, t], h[b]) + x[b, t]
      out[b, t] = h[b]
  return out, h


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("T", [1, 67, 300])
def test_every_form_is_the_loop(T, packed):
  A, x, state, ids = case(T)
  ids = ids if packed else None
  want = loop(A, x, state, ids)
  for form in module.IMPLEMENTATIONS:
    run = jax.jit(
      lambda A, x, state, form=form: block_recurrence(
        *(A, x),
        initial_state=state,
        segment_ids=None if ids is None else jnp.asarray(ids),
        implementation=form,
      )
    )
    got = run(A.astype("float32"), x.astype("complex64"), state.astype("complex64"))
    assert max(map(error, got, want)) < BUDGET, form


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_definition_in_float64(form):
  A, x, state, ids = case(33)

  def gradients(form):
    def loss(A, x, state):
      h, last = block_recurrence(
        *(A, x),
        initial_state=state,
        segment_ids=jnp.asarray(ids),
        implementation=form,
      )
      return jnp.sum(jnp.sin(h.real) + h.imag**2) + jnp.sum(last.real)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))

  with jax.enable_x64():
    args = jnp.asarray(A), jnp.asarray(x), jnp.asarray(state)
    want = [np.asarray(g) for g in gradients("recurrent")(*args)]
    assert max(map(error, gradients(form)(*args), want)) < 1e-12


def test_one_matrix_for_all_tokens_is_the_same_at_each():
  A, x, state, _ = case(20)
  A, x = jnp.asarray(A[0, 0], jnp.float32), jnp.asarray(x, jnp.complex64)
  for form in module.IMPLEMENTATIONS:
    run = jax.jit(lambda A, form=form: block_recurrence(A, x, implementation=form))
    testing.assert_close(run(A), run(jnp.broadcast_to(A, (2, 20, N, K, K))))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(1, 30), st.sampled_from(FORMS))
def test_any_split_gives_the_whole(cut, form):
  A, x, state, _ = case(31)
  A, x = jnp.asarray(A, jnp.float32), jnp.asarray(x, jnp.complex64)
  run = lambda *args, h: block_recurrence(*args, initial_state=h, implementation=form)
  whole, last = run(A, x, h=jnp.asarray(state, jnp.complex64))
  head, between = run(A[:, :cut], x[:, :cut], h=jnp.asarray(state, jnp.complex64))
  tail, end = run(A[:, cut:], x[:, cut:], h=between)
  testing.assert_close((jnp.concatenate([head, tail], 1), end), (whole, last))


def test_wrong_shapes_are_named():
  with pytest.raises(ValueError, match="block_recurrence needs A .* with K = 2"):
    block_recurrence(jnp.ones((3, 3, 3)), jnp.ones((1, 4, 3, 2)))
