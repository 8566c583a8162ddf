import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops

SETTINGS = dict(decay=0.8, threshold=0.7)
run = jax.jit(
  lambda x, state, ids=None, **options: ops.lif(
    x, **SETTINGS, **options, initial_state=state, segment_ids=ids
  ),
  static_argnames=("reset", "detach_reset"),
)


def case(T, packed, seed=0):
  rng = np.random.default_rng(seed)
  x, state = rng.normal(size=(2, T, 5)), rng.normal(size=(2, 5))
  ids = np.sort(rng.integers(1, 4, (2, T)), axis=1)
  ids[0, : T // 4], ids[1, T - T // 5 :] = 0, 0
  return np.float32(x), np.float32(state), ids if packed else None


def loop(x, state, ids, reset):
  """The neurons in numpy, float64; and how near a potential comes to the threshold."""
  v, spikes, nearest = np.float64(state), np.zeros(x.shape), np.inf
  for b in range(len(x)):
    document = None
    for t in range(x.shape[1]):
      token = 1 if ids is None else ids[b, t]
      if token == 0:
        continue
      if document not in (None, token):
        v[b] = 0
      document = token
      u = 0.8 * v[b] + x[b, t]
      s = u >= 0.7
      v[b] = np.where(s, 0 if reset == "hard" else u - 0.7, u)
      spikes[b, t] = s
      nearest = min(nearest, np.abs(u - 0.7).min())
  return spikes, v, nearest


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("T, packed", [(1, False), (33, True)])
def test_it_is_the_loop(T, packed, reset):
  x, state, ids = case(T, packed)
  spikes, v, nearest = loop(x, state, ids, reset)
  assert nearest > 1e-4 and 0 < spikes.mean() < 1
  got, last = run(x, state, ids, reset=reset)
  np.testing.assert_array_equal(got, spikes)
  np.testing.assert_allclose(last, v, atol=1e-5)


def slope(x, alpha=2.0):
  return alpha / 2 / (1 + (math.pi / 2 * alpha * x) ** 2)


def test_a_spike_has_the_gradient_of_an_arctan():
  x = jnp.linspace(-3, 3, 13)
  soft = lambda x: jnp.arctan(math.pi / 2 * 3.0 * x) / math.pi + 0.5
  np.testing.assert_array_equal(ops.spike(x, 3.0), x >= 0)
  got = jax.vmap(jax.grad(lambda x: ops.spike(x, 3.0)))(x)
  np.testing.assert_allclose(got, jax.vmap(jax.grad(soft))(x), rtol=1e-5)


@pytest.mark.parametrize(
  "reset, detached", itertools.product(["hard", "soft"], [False, True])
)
def test_the_gradient_passes_through_membrane_and_reset(reset, detached):
  x = jnp.array([[0.9, 0.3], [0.4, 0.2]])  # The first fires at once, the other not.
  second = lambda x: run(
    x[..., None], jnp.zeros((2, 1)), reset=reset, detach_reset=detached
  )[0][:, 1].sum()
  got = jax.grad(second)(x)[:, 0]
  for b, fires in ((0, 1), (1, 0)):
    u = float(x[b, 0])
    through = 0 if detached else slope(u - 0.7)
    v, dv = {
      "hard": (u * (1 - fires), 1 - fires - u * through),
      "soft": (u - 0.7 * fires, 1 - 0.7 * through),
    }[reset]
    want = slope(0.8 * v + float(x[b, 1]) - 0.7) * 0.8 * dv
    np.testing.assert_allclose(got[b], want, rtol=1e-5)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.integers(2, 20), st.integers(1, 19))
def test_any_split_gives_the_whole(T, cut):
  cut = min(cut, T - 1)
  x, state, _ = case(T, False, seed=T)
  whole, last = run(x, state)
  head, between = run(x[:, :cut], state)
  tail, end = run(x[:, cut:], between)
  np.testing.assert_array_equal(jnp.concatenate([head, tail], 1), whole)
  np.testing.assert_allclose(end, last, atol=1e-6)


def test_wrong_arguments_are_named():
  x = jnp.ones((2, 5, 3))
  with pytest.raises(ValueError, match="lif needs initial_state .* got shape"):
    ops.lif(x, initial_state=jnp.ones((2, 4)))
  with pytest.raises(ValueError, match="reset in .*'soft'.* got 'none'"):
    ops.lif(x, reset="none")
  with pytest.raises(ValueError, match="'auto' or one of"):
    ops.lif(x, implementation="parallel")
