import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
def test_it_gives_the_numbers_of_flash_linear_attention(form):
  oracle = np.load(ORACLES / "fla_gated_delta_rule.npz")

  @jax.jit
  def run(arrays, cotangents):
    op = lambda *tokens_and_state: ops.gated_delta_rule(
      *tokens_and_state[:-1], initial_state=tokens_and_state[-1], implementation=form
    )
    out, pullback = jax.vjp(op, *arrays)
    return out, pullback(cotangents)

  names = ("q", "k", "v", "g", "beta", "h0")
  cotangents = oracle["cot_o"], oracle["cot_final_state"]
  out, grads = run([oracle[n] for n in names], cotangents)
  for name, x in zip(("o", "final_state"), out):
    np.testing.assert_allclose(x, oracle[name], rtol=1e-5, atol=1e-5)
  for name, x in zip(names, grads):
    np.testing.assert_allclose(x, oracle[f"grad_{name}"], rtol=1e-5, atol=1e-5)


def unit_keys(T, K):
  k = jax.random.normal(jax.random.key(0), (1, T, 1, K))
  return k / jnp.linalg.norm(k, axis=-1, keepdims=True)


def test_a_memory_returns_the_last_value_stored_under_a_key():
  T, K = 40, 8
  keys = jnp.eye(K)[np.random.default_rng(0).integers(0, K, T)][None, :, None]
  v = jax.random.normal(jax.random.key(1), (1, T, 1, 5))
  none, all_ = jnp.zeros((1, T, 1)), jnp.ones((1, T, 1))
  o, state = ops.gated_delta_rule(keys, keys, v, none, all_, scale=1.0)
  np.testing.assert_allclose(o, v, rtol=1e-5, atol=1e-5)
  for i in range(K):
    last = int(np.flatnonzero(keys[0, :, 0, i]).max())
    np.testing.assert_allclose(state[0, 0, i], v[0, last, 0], rtol=1e-5, atol=1e-5)


def test_a_beta_of_zero_stores_nothing():
  T = 40
  k, v = unit_keys(T, 4), jax.random.normal(jax.random.key(1), (1, T, 1, 5))
  state = jax.random.normal(jax.random.key(2), (1, 1, 4, 5))
  g = jnp.full((1, T, 1), -0.1)
  _, last = ops.gated_delta_rule(k, k, v, g, g * 0, initial_state=state)
  np.testing.assert_allclose(last, np.exp(-0.1 * T) * state, rtol=1e-5)


def test_a_beta_of_two_reflects_and_so_keeps_the_length_of_the_state():
  T = 130
  k = unit_keys(T, 4)
  state = jax.random.normal(jax.random.key(2), (1, 1, 4, 5))
  none, two = jnp.zeros((1, T, 1)), jnp.full((1, T, 1), 2.0)
  v = jnp.zeros((1, T, 1, 5))
  _, last = ops.gated_delta_rule(k, k, v, none, two, initial_state=state)
  np.testing.assert_allclose(
    jnp.linalg.norm(last, axis=2), jnp.linalg.norm(state, axis=2), rtol=1e-4
  )
