import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "fla_delta_rule.npz"
NAMES = ("q", "k", "v", "beta", "h0")


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
def test_it_is_that_of_flash_linear_attention_with_its_gradients(form):
  oracle = {name: jnp.asarray(x, jnp.float32) for name, x in np.load(ORACLE).items()}
  tokens_first = lambda x: x.swapaxes(1, 2)

  def run(q, k, v, beta, h0):
    tokens = map(tokens_first, (q, k, v, beta))
    o, S = ops.delta_rule(*tokens, initial_state=h0, implementation=form)
    return tokens_first(o), S

  @jax.jit
  def both(arrays, cotangents):
    out, pullback = jax.vjp(run, *arrays)
    return out, pullback(cotangents)

  cotangents = oracle["cot_o"], oracle["cot_final_state"]
  out, grads = both([oracle[name] for name in NAMES], cotangents)
  names = ("o", "final_state", *(f"grad_{name}" for name in NAMES))
  for name, got in zip(names, (*out, *grads)):
    want = oracle[name]
    np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max(), err_msg=name)


def test_it_is_test_time_training_of_a_linear_model_a_token_at_a_time():
  """TTT-Linear (arXiv:2407.04620, sec. 2) without its inner norm, in batches of one."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  T, K, V = 19, 4, 3
  q, k, v, W = normal(T, K), 0.5 * normal(T, K), normal(T, V), normal(K, V)
  eta = jnp.asarray(rng.uniform(0, 1, T), jnp.float32)

  def step(W, token):
    q, k, v, eta = token
    loss = lambda W: jnp.sum((k @ W - v) ** 2) / 2
    W = W - eta * jax.grad(loss)(W)
    return W, q @ W

  want_W, want = jax.lax.scan(step, W, (q, k, v, eta))
  tokens = (x[None, :, None] for x in (q, k, v, eta))
  got, got_W = ops.delta_rule(*tokens, initial_state=W[None, None], scale=1.0)
  np.testing.assert_allclose(got[0, :, 0], want, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(got_W[0, 0], want_W, rtol=1e-5, atol=1e-5)
