import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing
from jaxseq.ops.linear import additive_decay

BUDGET = 3e-6

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
WEIGHTS = {  # From standard normal draws [B, T, H, K].
  "some": lambda d: d,
  "from -60 to 60": lambda d: np.where(d > 1, 60.0, -60.0),
  "each above all before": lambda d: 20.0 * np.arange(d.shape[1])[:, None, None] + d,
}


def draw(T, weights="some", B=2, H=2, K=5, V=3):
  rng = np.random.default_rng(T)
  q, d = rng.normal(size=(2, B, T, H, K))
  v = rng.normal(size=(B, T, H, V))
  S, z = rng.normal(size=(B, H, K, V)), rng.normal(size=(B, H, K))
  arrays = q, WEIGHTS[weights](d), v, ops.AdditiveDecayState(S, z)
  return jax.tree.map(np.float32, arrays)


def pack(T):
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


@functools.partial(jit, static_argnums=0)
def pull(form, arrays, ids, cotangents):
  """Outputs, the last state and the gradients of all inputs."""

  def run(arrays):
    *tokens, state = arrays
    return ops.additive_decay(
      *tokens, initial_state=state, segment_ids=ids, implementation=form
    )

  out, pullback = jax.vjp(run, arrays)
  cast = lambda c, y: jnp.asarray(c).astype(y.dtype)
  return out, pullback(jax.tree.map(cast, cotangents, out))[0]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_chunked_form_keeps_its_budget_against_float64(weights, monkeypatch):
  T = 67
  monkeypatch.setattr(additive_decay, "BLOCK_SIZE", 16)
  *tokens, state = draw(T, weights)
  rng = np.random.default_rng(0)
  cotangents = (
    rng.normal(size=tokens[2].shape),
    jax.tree.map(lambda x: rng.normal(size=x.shape), state),
  )
  for ids in (np.ones((2, T), np.int32), pack(T)):
    with jax.enable_x64(True):
      exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (*tokens, state))
      want = jax.tree.map(np.asarray, pull("recurrent", exact, ids, cotangents))
    garbage = [np.where((ids == 0)[..., None, None], np.nan, x) for x in tokens]
    got = pull("chunked", (*garbage, state), ids, cotangents)
    for (path, a), b in zip(
      jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(want)
    ):
      error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
      assert error < BUDGET, f"{jax.tree_util.keystr(path)} is off by {error:.2g}"


def test_rows_of_the_state_are_means_under_a_softmax_over_time():
  q, d, v, _ = draw(19)
  o, state = ops.additive_decay(q, d, v, scale=1.0)
  for t in (0, 18):
    p = jax.nn.softmax(d[:, : t + 1], axis=1)
    S = jnp.einsum("bthk,bthv->bhkv", p, v[:, : t + 1])
    want = jnp.einsum("bhk,bhkv->bhv", q[:, t], S)
    np.testing.assert_allclose(o[:, t], want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(state.S, S, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(state.z, jax.nn.logsumexp(d, axis=1), rtol=1e-5)


def test_a_split_sequence_gives_what_the_whole_gives():
  *tokens, state = draw(45)
  run = jit(functools.partial(ops.additive_decay, implementation="chunked"))
  whole, last = run(*tokens, initial_state=state)
  head, between = run(*(x[:, :19] for x in tokens), initial_state=state)
  tail, got_last = run(*(x[:, 19:] for x in tokens), initial_state=between)
  testing.assert_close(jnp.concatenate([head, tail], axis=1), whole)
  testing.assert_close(got_last, last)


def test_the_backward_pass_holds_no_state_for_each_token():
  token = jax.ShapeDtypeStruct((1, 32_768, 16, 128), jnp.bfloat16)

  def run(cotangent, *tokens):
    o, pullback = jax.vjp(lambda *tokens: ops.additive_decay(*tokens)[0], *tokens)
    return o, pullback(cotangent)

  memory = jax.jit(run).lower(*[token] * 4).compile().memory_analysis()
  ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert ends + memory.temp_size_in_bytes < 3 * ends


def test_a_shape_that_does_not_fit_is_named():
  q, d, v, state = draw(4)
  with pytest.raises(ValueError, match="additive_decay needs log_weight"):
    ops.additive_decay(q, d[:, :3], v)
  with pytest.raises(ValueError, match="additive_decay needs z"):
    ops.additive_decay(q, d, v, initial_state=state._replace(z=state.z[:1]))
