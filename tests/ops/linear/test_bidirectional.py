"""Linear attention in both directions, against its T x T weights in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops import chunks
from jaxseq.ops.linear import bidirectional, noncausal_linear_attention

B, H, K, V = 2, 2, 5, 3
OPS = {
  "bidirectional": ops.bidirectional,
  "sums": ops.noncausal_linear_attention,
  "means": functools.partial(ops.noncausal_linear_attention, normalized=True),
}
FORMS = {
  "bidirectional": bidirectional.IMPLEMENTATIONS,
  "sums": noncausal_linear_attention.IMPLEMENTATIONS,
  "means": noncausal_linear_attention.IMPLEMENTATIONS,
}
CASES = [(op, form) for op in OPS for form in FORMS[op]]
DECAYS = {
  "some": lambda rng, shape: -rng.exponential(size=shape),
  "none": lambda rng, shape: np.zeros(shape),
  "a step of -200": lambda rng, shape: np.where(rng.random(shape) < 0.1, -200.0, 0.0),
}
# Largest error of outputs and gradients, as a share of the largest value.
BUDGET = {"float32": 3e-6, "bfloat16": 2e-2}


def draw(op, T, decays="some"):
  rng = np.random.default_rng(T)
  q, k = rng.normal(size=(2, B, T, H, K))
  v = rng.normal(size=(B, T, H, V))
  if op == "bidirectional":
    return q, k, v, *(DECAYS[decays](rng, q.shape) for _ in range(2))
  return (q, k, v) if op == "sums" else (np.exp(q), np.exp(k), v)


def pack(T):
  """Two rows of documents with padding before, between and after."""
  ids = np.ones((B, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


def dense(op, ids, q, k, v, f=None, g=None):
  """The weights [B, T, T, H] of the definition, times the values."""
  T = q.shape[1]
  same = (ids[:, :, None] == ids[:, None]) & (ids[:, :, None] != 0)
  i, j = np.indices((T, T))
  if op == "bidirectional":
    F, G = (jnp.cumsum(x, axis=1) for x in (f, g))
    before = F[:, :, None] - F[:, None]  # f_{j+1} + ... + f_i
    after = (G - g)[:, None] - (G - g)[:, :, None]  # g_i + ... + g_{j-1}
    at = lambda where, x: jnp.exp(jnp.where(where[..., None, None], x, -jnp.inf))
    shares = at((j <= i) & same, before) + at((j >= i) & same, after)
  else:
    shares = jnp.where(same[..., None, None], 1, 0)
  weights = jnp.einsum("bihk,bijhk,bjhk->bijh", q, shares, k) * K**-0.5
  if op == "means":
    total = jnp.sum(weights, axis=2, keepdims=True)
    weights /= jnp.where(total == 0, 1, total)
  return jnp.einsum("bijh,bjhv->bihv", weights, v)


@functools.partial(
  jax.jit,
  static_argnums=(0, 1, 2),
  compiler_options={"xla_backend_optimization_level": 0},
)
def pull(op, form, chunk_size, arrays, ids, cotangent):
  """Outputs and the gradients of all inputs; chunk sizes tell compilations apart."""
  o, pullback = jax.vjp(
    lambda *a: OPS[op](*a, segment_ids=ids, implementation=form), *arrays
  )
  return o, pullback(cotangent.astype(o.dtype))


def assert_within_budget(op, form, arrays, ids, dtype="float32", chunk_size=None):
  rounded = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in arrays]
  cotangent = np.random.default_rng(0).normal(size=arrays[2].shape)
  T = cotangent.shape[1]
  whole = np.ones((B, T), np.int32) if ids is None else ids
  with jax.enable_x64(True):
    exact, pullback = jax.vjp(functools.partial(dense, op, whole), *rounded)
    want = jax.tree.map(np.asarray, (exact, pullback(jnp.asarray(cotangent))))
  if ids is not None:  # What stands at padding is nobody's business.
    rounded = [np.where((ids == 0)[..., None, None], np.nan, x) for x in rounded]
  given = tuple(jnp.asarray(x, dtype) for x in rounded)
  got = pull(op, form, chunk_size, given, ids, jnp.asarray(cotangent, jnp.float32))
  for n, (a, b) in enumerate(zip(*map(jax.tree.leaves, (got, want)))):
    a = np.asarray(a, np.float64)
    assert np.isfinite(a).all(), f"array {n} is not finite"
    error = np.abs(a - b).max() / max(np.abs(b).max(), 0.1)
    assert error < BUDGET[dtype], f"array {n} is off by {error:.2g}"


@pytest.mark.parametrize("op, form", CASES)
def test_every_form_keeps_its_budget(op, form):
  for decays in DECAYS if op == "bidirectional" else ["none"]:
    ids = None if form == "summed" else pack(67)
    assert_within_budget(op, form, draw(op, 67, decays), ids)


@pytest.mark.parametrize("T", [1, 130])
@pytest.mark.parametrize("op", OPS)
def test_a_row_of_one_document_is_read_whole(op, T):
  assert_within_budget(op, "auto", draw(op, T), None)


@pytest.mark.parametrize("op", OPS)
def test_large_chunks_keep_their_budget(op, monkeypatch):
  monkeypatch.setitem(chunks.CHUNK_SIZE, "cpu", 64)
  assert_within_budget(op, "chunked", draw(op, 150), pack(150), chunk_size=64)


@pytest.mark.parametrize("op", OPS)
def test_bfloat16_inputs_keep_their_budget(op):
  assert_within_budget(op, "chunked", draw(op, 67), pack(67), "bfloat16")


def test_a_token_counts_twice_where_decays_differ_and_once_where_there_are_none():
  q, k, v = (jnp.asarray(x) for x in draw("sums", 9))
  gone = jnp.full(q.shape, -200.0)
  own = jnp.sum(q * k, axis=-1, keepdims=True) * v * K**-0.5
  twice = ops.bidirectional(q, k, v, gone, gone)
  np.testing.assert_allclose(twice, 2 * own, rtol=1e-5, atol=1e-6)
  kept = ops.bidirectional(q, k, v, jnp.zeros(q.shape), jnp.zeros(q.shape))
  once = ops.noncausal_linear_attention(q, k, v)
  np.testing.assert_allclose(kept - own, once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["bidirectional", "means"])
def test_the_backward_pass_holds_no_state_for_each_token(op):
  shape = (1, 32_768, 16, 128)
  tokens = [jax.ShapeDtypeStruct(shape, jnp.bfloat16)] * 3
  if op == "bidirectional":
    tokens += [jax.ShapeDtypeStruct(shape, jnp.float32)] * 2
  ids = jax.ShapeDtypeStruct(shape[:2], jnp.int32)

  def run(cotangent, ids, *tokens):
    o, pullback = jax.vjp(functools.partial(OPS[op], segment_ids=ids), *tokens)
    return o, pullback(cotangent)

  memory = jax.jit(run).lower(tokens[0], ids, *tokens).compile().memory_analysis()
  ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert ends + memory.temp_size_in_bytes < 3 * ends


def test_calls_that_cannot_run_say_why():
  q, k, v, f, g = (jnp.asarray(x) for x in draw("bidirectional", 4))
  with pytest.raises(ValueError, match="bidirectional needs log_decay_backward"):
    ops.bidirectional(q, k, v, f, g[:, :3])
  with pytest.raises(NotImplementedError, match="summed .* rows of one document"):
    ops.noncausal_linear_attention(
      q, k, v, segment_ids=jnp.ones((B, 4), jnp.int32), implementation="summed"
    )
