import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing
from jaxseq.ops.ssm import selective_scan as module

# Nearly all the time of these tests is compilation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
FORMS = sorted(set(module.IMPLEMENTATIONS) - {"pallas_tpu"})  # It has its own tests.
BUDGET = 3e-6  # Of float32 against float64, as a share of the largest value.
STEPS = {  # dt A, for rates of -1 and less.
  "some": lambda rng, shape: rng.exponential(size=shape),
  "none": lambda rng, shape: np.zeros(shape),
  "a step of -200": lambda rng, shape: np.where(rng.random(shape) < 0.1, 200.0, 0.0),
}


@pytest.fixture(autouse=True)
def blocks_of_16_tokens(monkeypatch):
  monkeypatch.setattr(module, "CHUNK_SIZE", 16)


def case(T, steps="some", seed=0, B=2, D=5, N=3):
  """x, dt, A, B, C, D and the initial state, in float64."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape)
  dt = STEPS[steps](rng, (B, T, D))
  A = -rng.uniform(1, 2, (D, N))
  tokens = normal(B, T, D), dt, A, normal(B, T, N), normal(B, T, N)
  return *tokens, normal(D), normal(B, D, N)


def pack(T):
  ids = np.ones((2, T), np.int32)
  ids[0, : T // 4], ids[0, T // 2 :] = 0, 2
  ids[1, T // 3 : T // 2], ids[1, T // 2 :], ids[1, T - T // 5 :] = 0, 3, 0
  return ids


def loop(x, dt, A, B, C, D, state, ids):
  """The recurrence in numpy, float64."""
  h, y = state.copy(), np.zeros_like(x)
  document = [None] * len(x)
  for b in range(len(x)):
    for t in range(x.shape[1]):
      if ids[b, t] == 0:
        continue
      if document[b] not in (None, ids[b, t]):
        h[b] = 0
      document[b] = ids[b, t]
      written = np.outer(dt[b, t] * x[b, t], B[b, t])
      h[b] = np.exp(dt[b, t][:, None] * A) * h[b] + written
      y[b, t] = h[b] @ C[b, t] + D * x[b, t]
  return y, h


def error(got, want):
  want = np.asarray(want, np.float64)
  return np.abs(np.asarray(got) - want).max() / max(np.abs(want).max(), 1e-3)


def scan(*args, ids=None, form):
  *tokens, state = args
  return ops.selective_scan(
    *tokens, initial_state=state, segment_ids=ids, implementation=form
  )


run = jit(scan, static_argnames="form")


@functools.partial(jit, static_argnames="form")
def gradients(args, ids, cotangents, form):
  _, pullback = jax.vjp(lambda args: scan(*args, ids=ids, form=form), args)
  return pullback(cotangents)[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("T", [1, 37])
def test_every_form_is_the_loop(T, form):
  ids = pack(37) if T > 1 else np.ones((2, 1), np.int32)
  for steps in STEPS:
    args = case(T, steps)
    want = loop(*args, ids)
    got = run(*(a.astype(np.float32) for a in args), ids=ids, form=form)
    assert max(map(error, got, want)) < BUDGET, steps
  want = loop(*args, np.ones_like(ids))
  got = run(*(a.astype(np.float32) for a in args), form=form)
  assert max(map(error, got, want)) < BUDGET, "not packed"


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_definition_in_float64(form):
  ids = pack(37)
  rng = np.random.default_rng(1)
  cotangents = rng.normal(size=(2, 37, 5)), rng.normal(size=(2, 5, 3))
  for steps in STEPS:
    args = case(37, steps)
    with jax.enable_x64():
      want = gradients(args, ids, cotangents, "recurrent")
      want = [np.asarray(g) for g in want]
      got = gradients(args, ids, cotangents, form)
      assert max(map(error, got, want)) < 1e-12, steps
    low = jax.tree.map(np.float32, (args, cotangents))
    got = gradients(low[0], ids, low[1], form)
    assert max(map(error, got, want)) < BUDGET, steps


def test_what_stands_at_padding_is_not_read():
  ids = pack(37)
  args = [a.astype(np.float32) for a in case(37)]
  garbage = [
    np.where(ids[..., None] == 0, np.nan, a) if a.shape[:2] == ids.shape else a
    for a in args
  ]
  cotangents = np.ones((2, 37, 5), np.float32), np.ones((2, 5, 3), np.float32)
  both = lambda args: (
    run(*args, ids=ids, form="chunked"),
    gradients(tuple(args), ids, cotangents, "chunked"),
  )
  testing.assert_close(both(garbage), both(args))


def test_bfloat16_inputs_are_summed_in_float32():
  x, dt, A, B, C, D, state = case(37)
  low = [jnp.asarray(y, jnp.bfloat16) for y in (x, dt)]
  wide = [np.asarray(y, np.float64) for y in low]
  want = loop(*wide, A, B, C, D, state, np.ones((2, 37)))
  y, last = run(*low, *map(np.float32, (A, B, C, D, state)), form="chunked")
  assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
  assert error(last, want[1]) < BUDGET
  assert error(np.asarray(y, np.float32), want[0]) < 2**-8  # One rounding.


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.integers(1, 39), st.sampled_from(["chunked", "auto"]))
def test_any_split_gives_the_whole(T, cut, form):
  cut = min(cut, T - 1)
  *tokens, state = (a.astype(np.float32) for a in case(T, seed=T))
  part = lambda s: (a[:, s] if a.ndim == 3 else a for a in tokens)
  whole, last = run(*tokens, state, form=form)
  head, between = run(*part(slice(cut)), state, form=form)
  tail, end = run(*part(slice(cut, None)), between, form=form)
  testing.assert_close((jnp.hstack([head, tail]), end), (whole, last))


def test_the_backward_pass_holds_no_state_for_each_token(monkeypatch):
  monkeypatch.undo()
  T, D, N = 32_768, 1024, 16
  shape = lambda *axes, dtype=jnp.float32: jax.ShapeDtypeStruct(axes, dtype)
  x, BC = shape(1, T, D, dtype=jnp.bfloat16), shape(1, T, N, dtype=jnp.bfloat16)
  tokens = x, shape(1, T, D), shape(D, N), BC, BC, shape(D)

  def run(cotangent, *tokens):
    y, pullback = jax.vjp(lambda *tokens: ops.selective_scan(*tokens)[0], *tokens)
    return y, pullback(cotangent)

  memory = jax.jit(run).lower(x, *tokens).compile().memory_analysis()
  ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert ends + memory.temp_size_in_bytes < 3 * ends


def test_wrong_shapes_are_named():
  x, dt, A, B, C, D, state = map(jnp.asarray, case(4))
  with pytest.raises(ValueError, match="selective_scan needs A .* D = 5"):
    ops.selective_scan(x, dt, A.T, B, C)
  with pytest.raises(ValueError, match="selective_scan needs C .* N = 3"):
    ops.selective_scan(x, dt, A, B, C[..., :2])
  with pytest.raises(ValueError, match="selective_scan needs initial_state"):
    ops.selective_scan(x, dt, A, B, C, D, initial_state=state[:, :1])
  with pytest.raises(ValueError, match="'auto' or one of"):
    ops.selective_scan(x, dt, A, B, C, implementation="fast")
