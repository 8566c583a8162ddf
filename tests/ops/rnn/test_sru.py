import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing

jitted = jax.jit(ops.sru, static_argnames="implementation")

BUDGET = 3e-6  # Of float32 against float64, as a share of the largest value.


def case(T, packed, scale=1.0, seed=0):
  rng = np.random.default_rng(seed)
  arrays = rng.normal(size=(4, 2, T, 5))
  arrays[1:3] *= scale
  ids = np.sort(rng.integers(1, 4, (2, T)), axis=1)
  ids[0, : T // 4], ids[1, T - T // 5 :] = 0, 0
  peepholes, state = rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
  return (*arrays, peepholes), state, ids if packed else None


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def loop(u, forget, reset, skip, peepholes, state, ids):
  """The recurrence in numpy, float64."""
  c, out = state.copy(), np.zeros(u.shape)
  for b in range(len(u)):
    document = None
    for t in range(u.shape[1]):
      token = 1 if ids is None else ids[b, t]
      if token == 0:
        continue
      if document not in (None, token):
        c[b] = 0
      document = token
      f = sigmoid(forget[b, t] + peepholes[0] * c[b])
      r = sigmoid(reset[b, t] + peepholes[1] * c[b])
      c[b] = f * c[b] + (1 - f) * u[b, t]
      out[b, t] = r * c[b] + (1 - r) * skip[b, t]
  return out, c


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("T, scale", [(1, 1.0), (33, 1.0), (20, 300.0)])
def test_it_is_the_loop_at_extreme_gates_too(T, scale, packed):
  arrays, state, ids = case(T, packed, scale)
  with np.errstate(over="ignore"):
    want = loop(*arrays, state, ids)
  low = (jnp.asarray(a, jnp.float32) for a in arrays)
  got = jitted(*low, initial_state=jnp.asarray(state), segment_ids=ids)
  assert max(map(error, got, want)) < BUDGET


def test_gradients_are_those_of_differences_in_float64():
  arrays, state, ids = case(9, packed=True)
  rng = np.random.default_rng(1)
  bars = rng.normal(size=(2, 9, 5)), rng.normal(size=(2, 5))
  directions = [rng.normal(size=a.shape) for a in (*arrays, state)]

  def loss(*args):
    out = jitted(*args[:-1], initial_state=args[-1], segment_ids=ids)
    return sum(jnp.sum(a * b) for a, b in zip(out, bars))

  with jax.enable_x64():
    args = (*arrays, state)
    grads = jax.jit(jax.grad(loss, argnums=range(6)))(*args)
    for i, (grad, direction) in enumerate(zip(grads, directions)):
      moved = [
        sum(
          np.sum(a * b)
          for a, b in zip(
            loop(*args[:i], args[i] + e * direction, *args[i + 1 :], ids), bars
          )
        )
        for e in (1e-6, -1e-6)
      ]
      want = (moved[0] - moved[1]) / 2e-6
      np.testing.assert_allclose(np.sum(grad * direction), want, rtol=1e-6)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.integers(2, 20), st.integers(1, 19))
def test_any_split_gives_the_whole(T, cut):
  cut = min(cut, T - 1)
  (*arrays, peepholes), state, _ = case(T, False, seed=T)
  run = lambda part, c: jitted(
    *(jnp.asarray(a[:, part], jnp.float32) for a in arrays), peepholes, initial_state=c
  )
  whole, last = run(slice(None), state)
  head, c = run(slice(cut), state)
  tail, end = run(slice(cut, None), c)
  testing.assert_close((jnp.concatenate([head, tail], 1), end), (whole, last))


def test_wrong_shapes_are_named():
  x = jnp.ones((2, 5, 3))
  with pytest.raises(ValueError, match="sru needs skip .* got shape"):
    jitted(x, x, x, x[:, :4], jnp.ones((2, 3)))
  with pytest.raises(ValueError, match=r"peepholes \[2, N\] = \(2, 3\)"):
    jitted(x, x, x, x, jnp.ones(3))
  with pytest.raises(ValueError, match="'auto' or one of"):
    jitted(x, x, x, x, jnp.ones((2, 3)), implementation="chunked")
