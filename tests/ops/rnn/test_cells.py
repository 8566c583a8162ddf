"""What the cells over time have in common."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing

B, T, H, K = 2, 13, 2, 3

OPS = {
  "elman": functools.partial(ops.elman, activation="tanh"),
  "elman_relu": functools.partial(ops.elman, activation="relu"),
  "gru_after": functools.partial(ops.gru, reset="after"),
  "gru_before": functools.partial(ops.gru, reset="before"),
  "lstm": ops.lstm,
  "slstm": ops.slstm,
}
NUM_GATES = {"elman": 1, "elman_relu": 1, "gru_after": 3, "gru_before": 3}
STATES = {"lstm": ops.LSTMState, "slstm": ops.SLSTMState}


def case(name, dtype="float32"):
  """Gates, weights (of a GRU with its bias), and a state that could have come to be."""
  rng = np.random.default_rng(0)
  G = NUM_GATES.get(name, 4)
  gates, R = rng.normal(size=(B, T, H, G, K)), rng.normal(size=(H, G, K, K))
  weights = (R, rng.normal(size=(H, K))) if "gru" in name else (R,)
  kind = STATES.get(name, lambda h: h)
  draw = lambda: rng.normal(size=(B, H, K))
  state = kind(*(draw() for _ in getattr(kind, "_fields", "h")))
  if name == "slstm":
    state = state._replace(n=1 + np.exp(state.n))
  return jax.tree.map(lambda x: x.astype(dtype), (gates, weights, state))


def run(name, gates, weights, state, ids=None):
  return OPS[name](gates, *weights, initial_state=state, segment_ids=ids)


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


def numpy_cell(name, state, a, R, bias=None):
  """One token of one row: a list of states [H, K], a [H, G, K] and R [H, G, K, K]."""
  h = state[0]
  product = lambda h, *g: np.einsum("hgjk,hk->hgj", R[:, list(g)], h)
  if name in ("elman", "elman_relu"):
    a = (a + product(h, 0))[:, 0]
    return [np.tanh(a) if name == "elman" else np.maximum(a, 0)]
  if name in ("gru_after", "gru_before"):
    r, z = np.moveaxis(sigmoid(a[:, :2] + product(h, 0, 1)), 1, 0)
    after = name == "gru_after"
    u = r * (product(h, 2)[:, 0] + bias) if after else product(r * h, 2)[:, 0] + bias
    return [z * h + (1 - z) * np.tanh(a[:, 2] + u)]
  i, f, z, o = np.moveaxis(a + product(h, 0, 1, 2, 3), 1, 0)
  if name == "lstm":
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(z)
    return [sigmoid(o) * np.tanh(c), c]
  # Without a stabiliser: c and n themselves, m = 0.
  c = sigmoid(f) * state[1] + np.exp(i) * np.tanh(z)
  n = sigmoid(f) * state[2] + np.exp(i)
  return [sigmoid(o) * c / n, c, n, np.zeros_like(h)]


def unstabilised(state):
  """An sLSTM's c and n themselves; other states as they are. A list."""
  if not isinstance(state, ops.SLSTMState):
    return jax.tree.leaves(state)
  share = np.exp(state.m)
  return [state.h, state.c * share, state.n * share, np.zeros_like(state.m)]


def loop(name, gates, weights, state, ids):
  out = np.zeros((B, T, H, K))
  last = np.stack(unstabilised(state))
  for b in range(B):
    document = None
    for t in np.flatnonzero(ids[b]):
      if document not in (None, ids[b, t]):
        last[:, b] = 0
      document = ids[b, t]
      last[:, b] = numpy_cell(name, list(last[:, b]), gates[b, t], *weights)
      out[b, t] = last[0, b]
  return out, last


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", OPS)
def test_it_is_the_loop_in_float64(name, packed):
  ids = np.ones((B, T), int)
  if packed:
    ids[0, 4:9], ids[0, 11:], ids[1, :2], ids[1, 5:] = 2, 0, 0, 7
  want, end = loop(name, *case(name, "float64"), ids)
  gates, weights, state = case(name)
  if packed:
    gates[ids == 0] = np.nan
  args = jax.tree.map(jnp.asarray, (gates, weights, state))
  got, last = run(name, *args, jnp.asarray(ids) if packed else None)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(unstabilised(last), end, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPS)
def test_gradients_are_the_slopes(name):
  with jax.enable_x64():
    args = jax.tree.map(jnp.asarray, case(name, "float64"))
    args = (args[0][:1, :4], args[1], jax.tree.map(lambda s: s[:1], args[2]))
    run_one = jax.jit(functools.partial(run, name))
    jax.test_util.check_grads(run_one, args, 1, "rev", atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", STATES)
def test_a_state_handed_on_carries_gradients_and_one_held_constant_truncates(name):
  cut = 5

  def of_two_parts(hold, gates):
    _, weights, state = case(name, "float64")
    _, between = run(name, gates[:, :cut], weights, state)
    h, last = run(name, gates[:, cut:], weights, hold(between))
    return jnp.sum(h**2) + sum(jnp.sum(s) for s in jax.tree.leaves(last))

  def whole(gates):
    h, last = run(name, gates, *case(name, "float64")[1:])
    return jnp.sum(h[:, cut:] ** 2) + sum(jnp.sum(s) for s in jax.tree.leaves(last))

  with jax.enable_x64():
    gates = jnp.asarray(case(name, "float64")[0])
    pass_on, hold = lambda s: s, jax.lax.stop_gradient
    losses = (whole, *(functools.partial(of_two_parts, f) for f in (pass_on, hold)))
    want, handed_on, truncated = jax.jit(lambda g: [jax.grad(f)(g) for f in losses])(
      gates
    )
  testing.assert_close(handed_on, want)
  testing.assert_close(truncated[:, cut:], want[:, cut:])
  assert not truncated[:, :cut].any()
  assert np.abs(want[:, :cut]).max() > 1e-3


@functools.cache
def split_run(name):
  """Both parts of a row, as documents padded to its length, and the whole."""

  def both(head):
    gates, weights, state = jax.tree.map(jnp.asarray, case(name))
    rest = 1 - head
    h, between = run(name, gates, weights, state, head)
    tail, last = run(name, gates, weights, between, rest)
    return (h + tail, last), run(name, gates, weights, state)

  return jax.jit(both)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(OPS)), st.tuples(st.integers(0, T), st.integers(0, T)))
def test_any_split_gives_the_whole(name, cuts):
  head = jnp.arange(T) < jnp.array(cuts)[:, None]
  got, want = split_run(name)(head.astype(jnp.int32))
  testing.assert_close(got, want)


@pytest.mark.parametrize("name", OPS)
def test_gates_far_from_zero_stay_finite(name):
  gates, weights, state = jax.tree.map(jnp.asarray, case(name))
  gates = (200 if name != "elman_relu" else 1) * jnp.sign(gates)

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
  def loss(*args):
    out = run(name, *args)
    return jnp.sum(out[0] ** 2), out

  for x in jax.tree.leaves(loss(gates, weights, state)):
    assert np.isfinite(x).all()


def test_bfloat16_gates_give_bfloat16_outputs_and_a_float32_state():
  for name in OPS:
    gates, weights, state = jax.tree.map(jnp.asarray, case(name))
    h, last = jax.eval_shape(
      functools.partial(run, name), gates.astype(jnp.bfloat16), weights, state
    )
    assert h.dtype == jnp.bfloat16
    assert {s.dtype for s in jax.tree.leaves(last)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", OPS)
def test_wrong_shapes_are_named(name):
  op = name.split("_")[0]
  gates, weights, state = case(name)
  with pytest.raises(ValueError, match=f"{op} needs gates .* got shape"):
    run(name, gates[:, :, :, :0], weights, state)
  with pytest.raises(ValueError, match=f"{op} needs recurrent_weights .* got shape"):
    run(name, gates, (weights[0][1:], *weights[1:]), state)
  with pytest.raises(ValueError, match=f"{op} needs .* with B = 2; got shape"):
    run(name, gates, weights, jax.tree.map(lambda s: s[:1], state))
  with pytest.raises(ValueError, match=f"{op} needs segment_ids .* with B = 2"):
    run(name, gates, weights, state, np.ones((1, T), int))
