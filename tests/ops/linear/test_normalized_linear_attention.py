import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"
FORMS = ["chunked", "parallel", "recurrent"]


def draw(T, B=2, H=2, K=5, V=3):
  """Positive features, values, log decays and a state, in float64."""
  rng = np.random.default_rng(T)
  q, k = rng.exponential(size=(2, B, T, H, K))
  v = rng.normal(size=(B, T, H, V))
  log_decay = np.where(rng.random((B, T, H)) < 0.1, -200.0, 0.0)
  S, z = rng.normal(size=(B, H, K, V)), rng.exponential(size=(B, H, K))
  return q, k, v, log_decay, ops.LinearAttentionState(S, z)


@pytest.mark.parametrize("form", FORMS)
def test_it_gives_the_numbers_of_flash_linear_attention(form):
  oracle = np.load(ORACLES / "fla_linear_attn.npz")
  q, k, v = (jnp.asarray(oracle[n]) for n in ("q_pos", "k_pos", "v"))
  o, _ = ops.normalized_linear_attention(q, k, v, implementation=form)
  np.testing.assert_allclose(o, oracle["o_norm"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_are_those_of_the_definition_in_float64(form):
  ids = np.ones((2, 67), np.int32)
  ids[0, :3], ids[0, 30:], ids[1, 40:45], ids[1, 45:], ids[1, -4:] = 0, 2, 0, 3, 0
  arrays = draw(67)

  def pull(arrays, form):
    def run(q, k, v, g, state):
      return ops.normalized_linear_attention(
        q, k, v, g, initial_state=state, segment_ids=ids, implementation=form
      )

    out, pullback = jax.vjp(run, *arrays)
    return out, pullback(jax.tree.map(lambda y: jnp.cos(1 + y).astype(y.dtype), out))

  with jax.enable_x64(True):
    exact = jax.tree.map(lambda x: jnp.asarray(np.float32(x), jnp.float64), arrays)
    want = jax.tree.map(np.asarray, jax.jit(pull, static_argnums=1)(exact, "recurrent"))
  garbage = lambda x: np.where(
    (ids == 0).reshape(2, -1, *[1] * (x.ndim - 2)), np.nan, x
  )
  given = (*map(garbage, arrays[:-1]), arrays[-1])
  given = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given)
  got = jax.jit(pull, static_argnums=1)(given, form)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    assert np.abs(a - b).max() < 5e-6 * max(np.abs(b).max(), 1e-3)


def test_an_output_is_a_mean_of_the_values_so_far():
  q, k, v, _, _ = (jnp.asarray(x, jnp.float32) for x in (*draw(37)[:4], 0))
  o, _ = ops.normalized_linear_attention(q, k, jnp.ones_like(v))
  np.testing.assert_allclose(o, 1, rtol=1e-5)
  o, _ = ops.normalized_linear_attention(q, jnp.ones_like(k), v)
  count = np.arange(1, 38)[:, None, None]
  np.testing.assert_allclose(o, np.cumsum(v, axis=1) / count, rtol=1e-4, atol=1e-5)


def test_where_nothing_weighs_the_least_denominator_holds():
  q, k, v, *_ = (jnp.asarray(x, jnp.float32) for x in draw(9)[:3])
  run = lambda q: ops.normalized_linear_attention(q, k, v, epsilon=0.5)[0]
  o, grad = run(jnp.zeros_like(q)), jax.grad(lambda q: jnp.sum(run(q)))(0 * q)
  assert not o.any() and np.isfinite(grad).all()
  small, _ = ops.normalized_linear_attention(q * 1e-3, k, v, epsilon=0.5)
  sums, _ = ops.linear_attention(q * 1e-3, k, v)
  np.testing.assert_allclose(small, sums / 0.5, rtol=1e-5)


def test_a_split_sequence_gives_what_the_whole_gives():
  q, k, v, g, state = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), draw(45))
  run = jax.jit(ops.normalized_linear_attention)
  whole, last = run(q, k, v, g, initial_state=state)
  parts = [[x[:, :19] for x in (q, k, v, g)], [x[:, 19:] for x in (q, k, v, g)]]
  head, between = run(*parts[0], initial_state=state)
  tail, got_last = run(*parts[1], initial_state=between)
  testing.assert_close(jnp.concatenate([head, tail], axis=1), whole)
  testing.assert_close(got_last, last)


def test_the_backward_pass_holds_no_state_for_each_token():
  tokens = [jax.ShapeDtypeStruct((1, 32_768, 16, 128), jnp.bfloat16)] * 3

  def run(cotangent, *tokens):
    op = lambda *tokens: ops.normalized_linear_attention(*tokens)[0]
    o, pullback = jax.vjp(op, *tokens)
    return o, pullback(cotangent)

  memory = jax.jit(run).lower(tokens[0], *tokens).compile().memory_analysis()
  ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert ends + memory.temp_size_in_bytes < 3 * ends


def test_a_shape_that_does_not_fit_is_named():
  q, k, v, g, state = jax.tree.map(jnp.asarray, draw(4))
  name = "normalized_linear_attention"
  with pytest.raises(ValueError, match=f"{name} needs z .* K = 5"):
    wrong = state._replace(z=state.z[..., :2])
    ops.normalized_linear_attention(q, k, v, initial_state=wrong)
  with pytest.raises(ValueError, match=f"{name} needs log_decay"):
    ops.normalized_linear_attention(q, k, v, g[..., :1])
  with pytest.raises(ValueError, match=f"{name} needs v"):
    ops.normalized_linear_attention(q, k, v[:, :3])
