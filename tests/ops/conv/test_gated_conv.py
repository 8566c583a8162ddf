import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing
from jaxseq.ops.conv import gated_conv as module

jitted = jax.jit(ops.gated_conv, static_argnames="implementation")

BUDGET = 2e-6  # Of float32 against float64, as a share of the largest value.


def case(T, L, K=3, V=2):
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 2, T, 2, K))
  v = rng.normal(size=(2, T, 2, V))
  kernel, skip = rng.normal(size=(L, 2)), rng.normal(size=2)
  state = ops.GatedConvState(*(rng.normal(size=(2, L - 1, 2, n)) for n in (K, V)))
  ids = np.ones((2, T), np.int32)
  ids[0, T // 3 :], ids[1, T - T // 4 :] = 2, 0
  return (q, k, v, kernel, skip), state, ids


def loop(q, k, v, kernel, skip, state, ids):
  """The sum over pairs of tokens in numpy, float64."""
  L, T = len(kernel), q.shape[1]
  k = np.concatenate([state[0], k], axis=1)
  v = np.concatenate([state[1], v], axis=1)
  ids = np.concatenate([np.tile(ids[:, :1], (1, L - 1)), ids], axis=1)
  o = np.zeros((*q.shape[:3], v.shape[3]))
  for t in range(T):
    for lag in range(L):
      s = L - 1 + t - lag
      weight = kernel[lag] + (skip if lag == 0 else 0)
      weight = weight * (ids[:, [s]] == ids[:, [L - 1 + t]])
      score = np.sum(q[:, t] * k[:, s], axis=-1) * weight
      o[:, t] += score[..., None] * v[:, s]
  return o * (ids[:, L - 1 :] != 0)[..., None, None]


@functools.partial(jax.jit, static_argnums=0)
def run(form, q, k, v, kernel, skip, state, ids):
  return jitted(
    q,
    k,
    v,
    kernel,
    skip,
    initial_state=state,
    segment_ids=ids,
    implementation=form,
  )


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("T, L", [(1, 5), (23, 40)])
def test_every_form_is_the_loop(T, L):
  arrays, state, ids = case(T, L)
  low = [np.float32(a) for a in arrays]
  ones = np.ones_like(ids)
  for before in (state, None):
    zeros = [np.zeros_like(x) for x in state]
    low_state = jax.tree.map(np.float32, before)
    for row_ids in (None, ids):
      start = zeros if before is None else before
      want = loop(*arrays, start, ones if row_ids is None else row_ids)
      _, last = run("recurrent", *low, low_state, row_ids)
      for form in module.IMPLEMENTATIONS:
        if form == "fft" and row_ids is not None:
          continue
        got, got_last = run(form, *low, low_state, row_ids)
        assert error(got, want) < BUDGET, form
        assert [x.shape for x in got_last] == [x.shape for x in state]
        testing.assert_close(got_last, last)


@pytest.mark.parametrize("form", ["chunked", "fft", "parallel"])
def test_gradients_are_those_of_the_definition_in_float64(form):
  arrays, state, ids = case(23, 8)
  ids = None if form == "fft" else ids

  @functools.partial(jax.grad, argnums=(1, 2))
  def gradients(form, arrays, state):
    o, last = run(form, *arrays, state, ids)
    return jnp.sum(jnp.sin(o)) + sum(jnp.sum(jnp.cos(x)) for x in last)

  with jax.enable_x64():
    args = jax.tree.map(jnp.asarray, (arrays, state))
    want = jax.tree.map(np.asarray, gradients("recurrent", *args))
    testing.assert_close(gradients(form, *args), want)


def test_heads_of_one_channel_are_gates_around_a_convolution():
  (q, k, v, kernel, skip), _, _ = case(9, 4, K=1, V=1)
  o, _ = run("auto", q, k, v, kernel, skip, None, None)
  q, k, v = (x[..., 0] for x in (q, k, v))
  y, _ = ops.fft_conv(jnp.asarray(k * v), jnp.asarray(kernel), jnp.asarray(skip))
  testing.assert_close(o[..., 0], np.float32(q * np.asarray(y)))


def test_what_does_not_fit_is_named():
  (q, k, v, kernel, _), state, _ = case(5, 4)
  with pytest.raises(ValueError, match="gated_conv needs kernel .* got shape"):
    jitted(q, k, v, kernel[:, :1])
  state = ops.GatedConvState(state[0], state[1][:, 1:])
  with pytest.raises(ValueError, match=r"initial_state.v \[B, L - 1, H, V\]"):
    jitted(q, k, v, kernel, initial_state=state)
