import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing
from jaxseq.ops.conv import fft_conv as module

BUDGET = 1e-6  # Of float32 against float64, as a share of the largest value.

# T and L: one token, one tap, filters shorter and longer than the sequence.
SIZES = [(1, 1), (1, 9), (67, 1), (67, 150), (300, 70)]


def case(T, L, packed, seed=0):
  rng = np.random.default_rng(seed)
  x, state = rng.normal(size=(3, T, 4)), rng.normal(size=(3, L - 1, 4))
  kernel, skip = rng.normal(size=(L, 4)), rng.normal(size=4)
  ids = np.sort(rng.integers(1, 4, (3, T)), axis=1)
  ids[1, : T // 4], ids[1, T // 4 :], ids[2, T - T // 5 :] = 0, 3, 0
  ids[0, (T + 1) // 3 : T // 2] = 0  # Between two documents:
  ids[0, : (T + 1) // 3] = 7
  return x, kernel, skip, state, ids if packed else None


def loop(x, kernel, skip, state, ids):
  """The sum in numpy, float64."""
  y, last = np.zeros(x.shape), state.copy()
  document = [None] * len(x)
  for b in range(len(x)):
    for t in range(x.shape[1]):
      if ids is not None and ids[b, t] == 0:
        continue
      if ids is not None and document[b] not in (None, ids[b, t]):
        last[b] = 0
      document[b] = None if ids is None else ids[b, t]
      window = np.concatenate([last[b], x[b, t : t + 1]])
      y[b, t] = np.sum(window * kernel[::-1], axis=0) + skip * x[b, t]
      last[b] = window[1:]
  return y, last


@functools.partial(jax.jit, static_argnums=0)
def run(form, x, kernel, skip, state, ids):
  return ops.fft_conv(
    x,
    kernel,
    skip,
    initial_state=state,
    segment_ids=ids,
    implementation=form,
  )


def takes(form, packed):
  return not (form == "fft" and packed)


def error(got, want):
  if not want.size:
    return 0
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("T, L", SIZES)
def test_every_form_is_the_loop(T, L, packed):
  *arrays, state, ids = case(T, L, packed)
  low = [np.float32(a) for a in arrays]
  for before in (np.float32(state), None):
    zeros = np.zeros_like(state)
    want = loop(*arrays, zeros if before is None else np.float64(before), ids)
    for form in module.IMPLEMENTATIONS:
      if takes(form, packed):
        got = run(form, *low, before, ids)
        assert got[1].shape == state.shape
        assert max(map(error, got, want)) < BUDGET, form


@pytest.mark.parametrize(
  "form, packed",
  [("fft", False), ("chunked", False), ("chunked", True), ("parallel", True)],
)
def test_gradients_are_those_of_the_definition_in_float64(form, packed):
  *arrays, ids = case(67, 40, packed)

  def gradients(form):
    def loss(*arrays):
      y, last = run(form, *arrays, ids)
      return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last))

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))

  with jax.enable_x64():
    args = [jnp.asarray(a) for a in arrays]
    want = [np.asarray(g) for g in gradients("recurrent")(*args)]
    got = gradients(form)(*args)
    assert max(map(error, got, want)) < 1e-12
  got = gradients(form)(*(a.astype(np.float32) for a in arrays))
  assert max(map(error, got, want)) < 10 * BUDGET  # The loss bends with each output.


def test_bfloat16_inputs_are_summed_in_float32():
  arrays = case(67, 20, False)
  x = jnp.asarray(arrays[0], jnp.bfloat16)
  want, end = loop(np.asarray(x, np.float64), *arrays[1:])
  for form in module.IMPLEMENTATIONS:
    y, last = run(form, x, *(np.float32(a) for a in arrays[1:4]), None)
    assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    assert error(last, end) < BUDGET
    assert error(y.astype(jnp.float32), want) < 2**-8  # One rounding.


def test_padding_may_hold_anything():
  *arrays, ids = case(67, 20, True)
  x, kernel, skip, state = (np.float32(a) for a in arrays)
  garbage = np.where(ids[..., None] == 0, np.float32(np.nan), x)
  for form in set(module.IMPLEMENTATIONS) - {"fft"}:
    want = run(form, x, kernel, skip, state, ids)
    got = run(form, garbage, kernel, skip, state, ids)
    testing.assert_close(got, want)
    assert not np.asarray(got[0])[ids == 0].any()


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.integers(1, 60), st.floats(0, 1), st.booleans())
def test_any_split_gives_the_whole(T, L, place, packed):
  cut = 1 + int(place * (T - 2))
  x, kernel, skip, state, ids = case(T, L, packed, seed=T)
  if packed:  # Three documents, cut within the second.
    ids = np.array([5] * (cut - 1) + [1] * (1 + (T - cut + 1) // 2))
    ids = np.tile(np.pad(ids, (0, T - len(ids)), constant_values=2), (3, 1))
  want = loop(x, kernel, skip, state, ids)
  x, kernel, skip, state = (np.float32(a) for a in (x, kernel, skip, state))
  part = lambda a, span: None if a is None else a[:, span]
  for form in ("auto", "chunked"):
    h, out = state, []
    for span in (slice(0, cut), slice(cut, T)):
      y, h = run(form, x[:, span], kernel, skip, h, part(ids, span))
      out.append(y)
    got = np.concatenate(out, axis=1), np.asarray(h)
    testing.assert_close(got, want)


def test_what_does_not_fit_is_named():
  x = jnp.ones((2, 5, 3))
  with pytest.raises(ValueError, match="fft_conv needs kernel .* got shape"):
    ops.fft_conv(x, jnp.ones((4, 2)))
  with pytest.raises(ValueError, match=r"initial_state \[B, L - 1, D\] = \(2, 3, 3\)"):
    ops.fft_conv(x, jnp.ones((4, 3)), initial_state=jnp.ones((2, 4, 3)))
  with pytest.raises(NotImplementedError, match="packed documents"):
    ops.fft_conv(
      x,
      jnp.ones((4, 3)),
      segment_ids=jnp.ones((2, 5), jnp.int32),
      implementation="fft",
    )
