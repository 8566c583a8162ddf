"""Ops with many states, against their recurrent form in float64 and one state each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops import chunks

pytestmark = pytest.mark.slow

GATES = {  # By op, the axes of its gates, and the op that each state alone follows.
  "routed_diagonal_decay": (dict(log_decay="BTRHK"), "diagonal_decay"),
  "routed_gated_delta_rule": (
    dict(log_decay="BTRH", beta="BTRH"),
    "gated_delta_rule",
  ),
}
NUM_STATES = 3
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(op, T, decay=1.0, R=2):
  """q, k, v, gates and states in float64, and routes that leave a state unread."""
  rng = np.random.default_rng(T)
  sizes = dict(B=2, T=T, R=R, H=2, K=5, V=3, M=NUM_STATES)
  normal = lambda axes: rng.normal(size=[sizes[a] for a in axes])
  q, k, v, state = (normal(axes) for axes in ("BTRHK", "BTRHK", "BTRHV", "BMHKV"))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  gates = {
    "log_decay": lambda shape: -decay * rng.exponential(size=shape),
    "beta": lambda shape: rng.uniform(0, 2, shape),
  }
  axes = GATES[op][0]
  gates = [gates[name]([sizes[a] for a in axes[name]]) for name in axes]
  route = rng.random((2, T, NUM_STATES)).argsort(axis=-1)[..., :R]
  route[1, T // 3 :] = np.arange(R)  # State 2 is forgotten half way.
  return (q, k, v, *gates, state), jnp.asarray(route)


def pack(T):
  """Rows of documents with padding before, between and after."""
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


def hide_padding(x, ids):
  """What stands at padding is nobody's business."""
  return np.where((ids == 0).reshape(*ids.shape, *[1] * (x.ndim - 2)), np.nan, x)


def run(op, form, arrays, route, ids=None):
  *tokens, state = arrays
  return getattr(ops, op)(
    *tokens,
    route,
    NUM_STATES,
    initial_state=state,
    segment_ids=ids,
    implementation=form,
  )


compiled_run = jit(run, static_argnums=(0, 1))


@functools.partial(jit, static_argnums=(0, 1))
def pull(op, form, arrays, route, ids, cotangents):
  """Outputs, last states and the gradients of all inputs."""
  out, back = jax.vjp(lambda arrays: run(op, form, arrays, route, ids), arrays)
  return out, back(jax.tree.map(lambda c, y: c.astype(y.dtype), cotangents, out))[0]


@pytest.mark.parametrize("T, decay", [(67, 1.0), (130, 0.0), (67, 40.0)])
@pytest.mark.parametrize("op", GATES)
def test_the_chunked_form_agrees_with_the_recurrent_form(op, T, decay, monkeypatch):
  monkeypatch.setitem(chunks.CHUNK_SIZE, "cpu", 16)
  monkeypatch.setitem(chunks.GROUP_SIZE, "cpu", 4)
  arrays, route = draw(op, T, decay)
  rng = np.random.default_rng(0)
  cotangents = tuple(rng.normal(size=x.shape) for x in (arrays[2], arrays[-1]))
  for ids in (np.ones((2, T), np.int32), pack(T)):
    with jax.enable_x64(True):
      exact = tuple(map(jnp.asarray, arrays))
      want = pull(op, "recurrent", exact, route, ids, cotangents)
      want = jax.tree.map(np.asarray, want)
    given = [jnp.asarray(hide_padding(x, ids), jnp.float32) for x in arrays[:-1]]
    given = (*given, jnp.asarray(arrays[-1], jnp.float32))
    got = pull(op, "chunked", given, route, ids, cotangents)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
      error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
      assert error < 3e-6


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
@pytest.mark.parametrize("op", GATES)
def test_each_state_follows_its_own_tokens_alone(op, form):
  arrays, route = draw(op, 45)
  arrays = tuple(jnp.asarray(x, jnp.float32) for x in arrays)
  o, last = compiled_run(op, form, arrays, route)
  *tokens, state = arrays

  @jit
  def alone(tokens, state, ids):
    plain = getattr(ops, GATES[op][1])
    call = functools.partial(plain, implementation="recurrent")
    return call(*tokens, initial_state=state, segment_ids=ids)

  row = lambda x: np.asarray(x)[b].reshape(1, -1, *x.shape[3:])  # In the order of time.
  for b in range(2):
    for m in range(NUM_STATES):
      mine = row(route) == m  # To this state the others are padding.
      want, want_last = alone(
        [row(x) for x in tokens], state[b : b + 1, m], mine.astype(int)
      )
      got = np.where(mine[..., None, None], row(o), 0)
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
      np.testing.assert_allclose(last[b, m], want_last[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", GATES)
def test_a_split_sequence_gives_what_the_whole_gives(op):
  arrays, route = draw(op, 45)
  *tokens, state = (jnp.asarray(x, jnp.float32) for x in arrays)
  whole, last = compiled_run(op, "chunked", (*tokens, state), route)
  head = [x[:, :19] for x in tokens]
  o, between = compiled_run(op, "chunked", (*head, state), route[:, :19])
  tail = [x[:, 19:] for x in tokens]
  rest, got_last = compiled_run(op, "chunked", (*tail, between), route[:, 19:])
  got = jnp.concatenate([o, rest], axis=1)
  np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got_last, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", GATES)
def test_the_backward_pass_holds_no_state_for_each_token(op):
  sizes = dict(B=1, T=16_384, R=2, H=16, K=128, V=128)
  shape = lambda axes, dtype: jax.ShapeDtypeStruct([sizes[a] for a in axes], dtype)
  tokens = [shape("BTRHK", jnp.bfloat16)] * 3
  tokens += [shape(axes, jnp.float32) for axes in GATES[op][0].values()]
  route = shape("BTR", jnp.int32)

  def step(cotangent, route, *tokens):
    call = lambda *tokens: getattr(ops, op)(*tokens, route, 4)[0]
    o, back = jax.vjp(call, *tokens)
    return o, back(cotangent)

  lowered = jax.jit(step).lower(tokens[0], route, *tokens)
  memory = lowered.compile().memory_analysis()
  ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert ends + memory.temp_size_in_bytes < 3 * ends


@pytest.mark.parametrize("op", GATES)
def test_a_shape_that_does_not_fit_is_named(op):
  (*tokens, state), route = draw(op, 4)
  tokens = [jnp.asarray(x) for x in tokens]
  with pytest.raises(ValueError, match=f"{op} needs route"):
    getattr(ops, op)(*tokens, route[:, :3], NUM_STATES)
  with pytest.raises(ValueError, match=f"{op} needs initial_state .* M = 4"):
    getattr(ops, op)(*tokens, route, 4, initial_state=jnp.asarray(state))


@pytest.mark.parametrize("packed", [False, True])
def test_each_state_has_a_short_convolution_of_its_own_tokens(packed):
  T, W = 41, 4
  rng = np.random.default_rng(1)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x, weight, state = normal(2, T, 2, 6), normal(W, 6), normal(2, NUM_STATES, W - 1, 6)
  _, route = draw("routed_diagonal_decay", T)
  ids = pack(T) if packed else np.ones((2, T), np.int32)
  routed = jit(
    functools.partial(ops.routed_short_conv, activation="silu"), static_argnums=3
  )
  y, last = routed(
    jnp.asarray(hide_padding(x, ids)),
    weight,
    route,
    NUM_STATES,
    initial_state=state,
    segment_ids=jnp.asarray(ids),
  )
  assert not np.abs(y[ids == 0]).any()
  document = np.asarray(ops.segments.parse(jnp.asarray(ids)).index)
  plain = jit(functools.partial(ops.short_conv, activation="silu"))
  for b, m in np.ndindex(2, NUM_STATES):
    seen = (np.asarray(route[b]) == m) & (ids[b] != 0)[:, None]
    t, r = np.nonzero(seen)  # In the order of time.
    # The state's inputs, then its tokens, as documents of their own; padding after.
    inputs = np.concatenate([state[b, m], x[b, t, r]])
    numbers = np.concatenate([np.zeros(W - 1, int), document[b, t]])
    rest = 2 * T - len(t)
    want, _ = plain(
      np.pad(inputs, ((0, rest), (0, 0)))[None],
      weight,
      segment_ids=np.pad(1 + numbers, (0, rest))[None],
    )
    want = want[0, W - 1 : len(inputs)]
    np.testing.assert_allclose(y[b, t, r], want, rtol=1e-5, atol=1e-5)
    current = numbers[1 - W :, None] == document[b, -1]
    np.testing.assert_allclose(last[b, m], np.where(current, inputs[1 - W :], 0))
