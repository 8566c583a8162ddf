import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops.linear import toeplitz_attention as op

T = 37


def draw(spread=1.0):
  rng = np.random.default_rng(0)
  q, k = (rng.uniform(0.1, 2, size=(2, T, 2, 5)) for _ in range(2))
  return q, k, rng.normal(size=(2, T, 2, 3)), spread * rng.normal(size=(2, 50))


def naive(q, k, v, b, ids=None):
  """Sums and their weights [B, T, H, 1] with numpy, over all pairs."""
  i = np.arange(T)
  c = np.exp((b - b.max(1, keepdims=True))[:, np.maximum(i[:, None] - i, 0)])
  A = np.einsum("bthk,bshk->bhts", q, k) * c * (i[:, None] >= i)
  if ids is not None:
    A = A * ((ids[:, :, None] == ids[:, None]) & (ids != 0)[:, None])[:, None]
  total = np.moveaxis(A.sum(-1), 1, 2)[..., None]
  o = np.einsum("bhts,bshv->bthv", A, v) / np.where(total == 0, 1, total)
  return o, total


@functools.partial(jax.jit, static_argnames="form")
def run(arrays, ids=None, state=None, form="auto"):
  return ops.toeplitz_attention(
    *arrays, initial_state=state, segment_ids=ids, implementation=form
  )


@pytest.mark.parametrize("form", op.IMPLEMENTATIONS)
@pytest.mark.parametrize("spread", [0, 1, 4])
def test_every_form_is_the_sum_over_all_pairs(form, spread):
  arrays = draw(spread)
  o, after = run([jnp.asarray(x, jnp.float32) for x in arrays], form=form)
  want, total = naive(*arrays)
  # A transform is as precise as the largest of a row's sums allows.
  share = total / total.max(axis=1, keepdims=True) if form == "fft" else 1
  assert (np.abs(o - want) * share).max() < 1e-6 * np.abs(want).max()
  assert after is None


@pytest.mark.parametrize("form", ["fft", "blockwise"])
def test_gradients_agree_with_the_recurrent_form(form):
  arrays = draw()
  weights = np.random.default_rng(1).normal(size=arrays[2].shape)

  def gradients(arrays, form):
    objective = lambda arrays: jnp.sum(run(arrays, form=form)[0] * weights)
    return jax.grad(objective)(arrays)

  with jax.enable_x64(True):
    want = gradients([jnp.asarray(x) for x in arrays], "recurrent")
    want = jax.tree.map(np.asarray, want)
  got = gradients([jnp.asarray(x, jnp.float32) for x in arrays], form)
  for a, b in zip(got, want):
    assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()


def test_packed_documents_are_kept_apart():
  arrays = draw()
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, 20:], ids[1, 11:], ids[1, -5:] = 0, 2, 3, 0
  spoiled = [np.where((ids == 0)[..., None, None], np.nan, x) for x in arrays[:3]]
  given = [jnp.asarray(x, jnp.float32) for x in (*spoiled, arrays[3])]
  o, _ = run(given, jnp.asarray(ids), form="blockwise")
  np.testing.assert_allclose(o, naive(*arrays, ids)[0], atol=1e-5)


def test_a_cache_continues_the_sequence_and_ends_with_its_slots():
  *tokens, b = (jnp.asarray(x, jnp.float32) for x in draw())
  state = ops.kv_cache.empty(2, T - 1, 2, 5, 3, jnp.float32)
  head, state = run((*(x[:, :30] for x in tokens), b), state=state)
  tail, _ = run((*(x[:, 30:] for x in tokens), b), state=state)
  o = np.concatenate([head, tail], axis=1)
  want, _ = naive(*map(np.asarray, tokens), np.asarray(b))
  np.testing.assert_allclose(o[:, :-1], want[:, :-1], atol=1e-5)
  assert np.isnan(o[:, -1]).all()


def test_the_transform_is_taken_where_it_is_less_work():
  small, wide = jnp.ones((1, 4096, 1, 4)), jnp.ones((1, 512, 1, 64))
  b = jnp.zeros((1, 4096))

  def transforms(x):
    call = lambda x: ops.toeplitz_attention(x, x, x, b)[0]
    return "fft" in str(jax.make_jaxpr(call)(x))

  assert transforms(small) and not transforms(wide)


def test_no_pairs_of_all_tokens_are_held_for_the_backward_pass():
  x = jax.ShapeDtypeStruct((1, 4096, 2, 64), jnp.bfloat16)
  b = jax.ShapeDtypeStruct((2, 4096), jnp.float32)

  def loss(q, k, v, b):
    o, _ = ops.toeplitz_attention(q, k, v, b, implementation="blockwise")
    return jnp.sum(o.astype(jnp.float32) ** 2)

  step = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
  memory = step.lower(x, x, x, b).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 4096**2 * 2


def test_what_does_not_fit_is_named():
  q, k, v, b = (jnp.asarray(x, jnp.float32) for x in draw())
  with pytest.raises(ValueError, match="M >= T = 37 distances; got 30"):
    ops.toeplitz_attention(q, k, v, b[:, :30])
  ids = jnp.ones((2, T), jnp.int32)
  with pytest.raises(NotImplementedError, match="fft cannot take this call"):
    ops.toeplitz_attention(q, k, v, b, segment_ids=ids, implementation="fft")
