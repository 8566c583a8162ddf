import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing

BUDGET = 3e-6

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
LENGTHS = np.array([6, 40], np.int32)


def draw(T, B=2, H=2, K=5, V=3):
  """Features are positive: the denominator does not cancel."""
  rng = np.random.default_rng(T)
  q, k, k_prefix = np.abs(rng.normal(size=(3, B, T, H, K)))
  v, v_prefix = rng.normal(size=(2, B, T, H, V))
  S, z = rng.normal(size=(B, H, K, V)), np.abs(rng.normal(size=(B, H, K)))
  arrays = q, k, v, k_prefix, v_prefix, ops.LinearAttentionState(S, z)
  return jax.tree.map(np.float32, arrays)


def pack(T):
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


def equation(q, k, v, k_prefix, v_prefix, state, ids):
  """By masks, in the dtype of the arguments. The row's first document continues."""
  T = q.shape[1]
  t = np.arange(T)
  same = (ids[:, :, None] == ids[:, None]) & (ids != 0)[:, None]
  causal = same & (t[:, None] >= t)
  place = np.zeros_like(ids)
  for row, of in zip(place, ids):
    for document in set(of):
      row[of == document] = np.arange((of == document).sum())
  first = np.stack([of == of[of != 0][0] for of in ids])
  prefix = same & ((place < LENGTHS[:, None]) & ~first)[:, None]
  A = np.einsum("bihk,bjhk->bijh", q, k) * causal[..., None]
  E = np.einsum("bihk,bjhk->bijh", q, k_prefix) * prefix[..., None]
  o = np.einsum("bijh,bjhv->bihv", A, v) + np.einsum("bijh,bjhv->bihv", E, v_prefix)
  total = A.sum(axis=2) + E.sum(axis=2)
  o += np.einsum("bihk,bhkv->bihv", q, state.S) * first[..., None, None]
  total += np.einsum("bihk,bhk->bih", q, state.z) * first[..., None]
  return o / np.where(total == 0, 1, total)[..., None]


@functools.partial(jit, static_argnums=0)
def pull(form, arrays, ids, cotangents):
  def run(arrays):
    *tokens, state = arrays
    return ops.prefix_linear_attention(
      *tokens, LENGTHS, initial_state=state, segment_ids=ids, implementation=form
    )

  out, pullback = jax.vjp(run, arrays)
  cast = lambda c, y: jnp.asarray(c).astype(y.dtype)
  return out, pullback(jax.tree.map(cast, cotangents, out))[0]


@pytest.mark.parametrize("form", ["chunked", "parallel"])
def test_the_forms_keep_their_budget_against_float64(form):
  T = 67
  ids = pack(T)
  *tokens, state = draw(T)
  rng = np.random.default_rng(0)
  cotangents = (
    rng.normal(size=tokens[2].shape),
    jax.tree.map(lambda x: rng.normal(size=x.shape), state),
  )
  with jax.enable_x64(True):
    exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (*tokens, state))
    want = jax.tree.map(np.asarray, pull("recurrent", exact, ids, cotangents))
    by_masks = equation(*jax.tree.map(np.float64, (*tokens, state)), ids)
  np.testing.assert_allclose(want[0][0], by_masks, rtol=1e-9, atol=1e-12)
  garbage = [np.where((ids == 0)[..., None, None], np.nan, x) for x in tokens]
  got = pull(form, (*garbage, state), ids, cotangents)
  for (path, a), b in zip(
    jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(want)
  ):
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    assert error < BUDGET, f"{jax.tree_util.keystr(path)} is off by {error:.2g}"


def test_a_row_of_one_document_is_read_as_a_packed_one():
  *tokens, _ = draw(45)
  run = jit(functools.partial(ops.prefix_linear_attention, implementation="chunked"))
  got = run(*tokens, LENGTHS)
  ids = jnp.ones((2, 45), jnp.int32)
  testing.assert_close(got, run(*tokens, LENGTHS, segment_ids=ids))


def test_decoding_goes_on_from_the_prefix():
  *tokens, _ = draw(61)
  run = jit(functools.partial(ops.prefix_linear_attention, implementation="chunked"))
  whole, last = run(*tokens, LENGTHS)
  head, between = run(*(x[:, :45] for x in tokens), LENGTHS)
  tail, got_last = run(*(x[:, 45:] for x in tokens), LENGTHS, initial_state=between)
  testing.assert_close(jnp.concatenate([head, tail], axis=1), whole)
  testing.assert_close(got_last, last)


def test_the_backward_pass_holds_no_state_for_each_token():
  token = jax.ShapeDtypeStruct((1, 32_768, 16, 128), jnp.bfloat16)
  length = jax.ShapeDtypeStruct((1,), jnp.int32)

  def run(cotangent, length, *tokens):
    forward = lambda *tokens: ops.prefix_linear_attention(*tokens, length)[0]
    o, pullback = jax.vjp(forward, *tokens)
    return o, pullback(cotangent)

  lowered = jax.jit(run).lower(token, length, *[token] * 5)
  memory = lowered.compile().memory_analysis()
  ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert ends + memory.temp_size_in_bytes < 3 * ends


def test_a_shape_that_does_not_fit_is_named():
  *tokens, _ = draw(4)
  with pytest.raises(ValueError, match="prefix_linear_attention needs prefix_length"):
    ops.prefix_linear_attention(*tokens, LENGTHS[:1])
