"""What the log-linear ops promise, against their recurrent form in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops import fenwick

pytestmark = pytest.mark.slow

BASES = {"log_linear": "scalar_decay", "log_linear_delta": "gated_delta_rule"}
CASES = [
  ("log_linear", "chunked"),
  ("log_linear", "parallel"),
  ("log_linear_delta", "chunked"),
]
BUDGET = {"float32": 5e-6, "bfloat16": 2e-2}
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(op, T, levels=8, B=2, H=2, K=5, V=3):
  """q, k, v, gates, level scales in float64, and a state after 13 and 3 tokens."""
  rng = np.random.default_rng(T)
  q, k, v = (rng.normal(size=(B, T, H, n)) for n in (K, K, V))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  gates = [
    np.where(rng.random((B, T, H)) < 0.1, -200, -rng.exponential(0.1, (B, T, H)))
  ]
  if op == "log_linear_delta":
    gates.append(rng.uniform(0, 2, (B, T, H)))
  scales = rng.normal(size=(B, T, H, levels))
  length = np.array([13, 3], np.int32)[:B]
  full = length[:, None] >> np.arange(levels - 1) & 1 | (np.arange(levels - 1) == 7)
  buckets = rng.normal(size=(B, H, levels - 1, K, V)) * full[:, None, :, None, None]
  return [q, k, v, *gates, scales], buckets, length


def pack(T):
  """Two rows of documents with padding before, between and after."""
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


@functools.partial(jit, static_argnums=(0, 1))
def pull(op, form, arrays, length, ids, cotangents):
  """Outputs, last buckets and length, and the gradients of all inputs."""

  def run(arrays):
    *tokens, buckets = arrays
    o, state = getattr(ops, op)(
      *tokens,
      initial_state=ops.FenwickState(buckets, length),
      segment_ids=ids,
      implementation=form,
    )
    return (o, state.buckets), state.length

  out, pullback, last = jax.vjp(run, arrays, has_aux=True)
  cotangents = jax.tree.map(lambda c, y: c.astype(y.dtype), cotangents, out)
  return out, pullback(cotangents)[0], last


@pytest.mark.parametrize("dtype", BUDGET)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("op, form", CASES)
def test_the_forms_keep_their_budget(op, form, packed, dtype):
  T = 83
  tokens, buckets, length = draw(op, T, levels=5 if packed else 8)
  ids = pack(T) if packed else np.ones((2, T), np.int32)
  arrays = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in (*tokens, buckets)]
  rng = np.random.default_rng(0)
  cotangents = tuple(rng.normal(size=x.shape) for x in (tokens[2], buckets))
  with jax.enable_x64(True):
    exact = list(map(jnp.asarray, arrays))
    want = pull(op, "recurrent", exact, length, ids, cotangents)
    want = jax.tree.map(np.asarray, want)
  given = [jnp.asarray(x, dtype) for x in arrays]
  got = pull(op, form, given, length, ids, cotangents)
  for i, (a, b) in enumerate(zip(jax.tree.leaves(got), jax.tree.leaves(want))):
    a = np.asarray(a, np.float64)
    assert np.isfinite(a).all()
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    assert error < BUDGET[dtype], f"leaf {i} is off by {error:.2g}"


@pytest.mark.parametrize("levels", [2, 4, 9])
@pytest.mark.parametrize("op", BASES)
def test_with_all_scales_one_it_is_the_linear_op(op, levels):
  tokens, _, _ = draw(op, 45, levels)
  *tokens, scales = [jnp.asarray(x, jnp.float32) for x in tokens]
  o, state = getattr(ops, op)(*tokens, jnp.ones_like(scales))
  want, last = getattr(ops, BASES[op])(*tokens)
  np.testing.assert_allclose(o, want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(state.buckets.sum(2), last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", BASES)
def test_a_split_sequence_gives_what_the_whole_gives(op):
  tokens, buckets, length = draw(op, 75)
  tokens = [jnp.asarray(x, jnp.float32) for x in tokens]
  state = ops.FenwickState(jnp.asarray(buckets, jnp.float32), jnp.asarray(length))
  run = jit(functools.partial(getattr(ops, op), implementation="chunked"))
  whole, last = run(*tokens, initial_state=state)
  head, between = run(*(x[:, :38] for x in tokens), initial_state=state)
  tail, got_last = run(*(x[:, 38:] for x in tokens), initial_state=between)
  got = jnp.concatenate([head, tail], axis=1)
  np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got_last.buckets, last.buckets, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(got_last.length, last.length)


def test_each_token_reads_the_bits_of_its_place_as_buckets():
  T, levels = 22, 6
  v = jnp.eye(T)[None, :, None]
  one = jnp.ones((1, T, 1, 1))
  for l in range(levels):
    scales = jnp.zeros((1, T, 1, levels)).at[..., l].set(1)
    o, _ = ops.log_linear(one, one, v, jnp.zeros((1, T, 1)), scales)
    for t in range(T):
      size = 2 ** (l - 1) if l else 1
      begin = (t >> l << l) if l else t
      seen = range(begin, begin + size) if not l or t & size else ()
      assert np.flatnonzero(o[0, t, 0]).tolist() == list(seen)


def test_empty_buckets_are_the_zero_bits_of_the_length():
  tokens, _, _ = draw("log_linear_delta", 37)
  tokens = [jnp.asarray(x, jnp.float32) for x in tokens]
  tokens[3] = jnp.zeros_like(tokens[3])
  _, state = ops.log_linear_delta(*tokens)
  used = np.abs(state.buckets[0]).sum((0, 2, 3)) > 0
  assert used.tolist() == [bool(37 >> b & 1) for b in range(7)]


@pytest.mark.parametrize("op", BASES)
def test_a_long_sequence_takes_little_memory(op):
  T, H, K, L = 32768, 16, 128, 16
  shapes = [(T, H, K)] * 3 + [(T, H)] * (op.count("_")) + [(T, H, L)]
  tokens = [jax.ShapeDtypeStruct((1, *shape), jnp.float32) for shape in shapes]

  def pull(cotangent, *tokens):
    return jax.vjp(lambda *tokens: getattr(ops, op)(*tokens)[0], *tokens)[1](cotangent)

  memory = jit(pull).lower(tokens[2], *tokens).compile().memory_analysis()
  given_and_got = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert memory.temp_size_in_bytes < 2 * given_and_got


@pytest.mark.parametrize("op", BASES)
def test_what_does_not_fit_is_named(op):
  *tokens, scales = (jnp.asarray(x) for x in draw(op, 4)[0])
  run = getattr(ops, op)
  with pytest.raises(ValueError, match=f"{op} needs level_scales of at least 2 levels"):
    run(*tokens, scales[..., :1])
  with pytest.raises(ValueError, match=f"{op} needs level_scales"):
    run(*tokens, scales[:, :3])
  state = fenwick.FenwickState(jnp.zeros((2, 2, 3, 5, 3)), jnp.zeros(2, jnp.int32))
  with pytest.raises(ValueError, match=f"{op} needs initial_state of buckets"):
    run(*tokens, scales, initial_state=state)
