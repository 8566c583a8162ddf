import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


@pytest.mark.parametrize("form", ["chunked", "parallel", "recurrent"])
def test_it_gives_the_numbers_of_flash_linear_attention(form):
  oracle = np.load(ORACLES / "fla_simple_gla.npz")

  @jax.jit
  def run(arrays, cotangents):
    op = lambda *tokens_and_state: ops.scalar_decay(
      *tokens_and_state[:-1], initial_state=tokens_and_state[-1], implementation=form
    )
    out, pullback = jax.vjp(op, *arrays)
    return out, pullback(cotangents)

  names = ("q", "k", "v", "g", "h0")
  cotangents = oracle["cot_o"], oracle["cot_final_state"]
  out, grads = run([oracle[n] for n in names], cotangents)
  for name, x in zip(("o", "final_state"), out):
    np.testing.assert_allclose(x, oracle[name], rtol=1e-5, atol=1e-5)
  for name, x in zip(names, grads):
    np.testing.assert_allclose(x, oracle[f"grad_{name}"], rtol=1e-5, atol=1e-5)


def test_with_the_decays_of_retnet_it_is_retention():
  oracle = np.load(ORACLES / "fla_retention.npz")  # [B, H, T, K]
  q, k, v = (jnp.asarray(oracle[n]).swapaxes(1, 2) for n in "qkv")
  log_decay = np.broadcast_to(np.log(1 - 2.0 ** (-5 - np.arange(4))), q.shape[:3])
  o, _ = jax.jit(ops.scalar_decay)(q, k, v, log_decay)
  np.testing.assert_allclose(o.swapaxes(1, 2), oracle["o"], rtol=1e-5, atol=1e-5)


def test_without_decay_it_is_linear_attention():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 37, 2, 4))
  got = ops.scalar_decay(q, k, v, jnp.zeros((1, 37, 2)))
  want = ops.linear_attention(q, k, v, implementation="recurrent")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), got, want)


def test_a_decay_to_nothing_forgets_and_its_gradient_is_zero():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 37, 2, 4))
  g = jnp.zeros((1, 37, 2)).at[:, 20].set(-jnp.inf)
  o, _ = ops.scalar_decay(q, k, v, g)
  for part in (slice(20), slice(20, None)):
    want, _ = ops.linear_attention(q[:, part], k[:, part], v[:, part])
    np.testing.assert_allclose(o[:, part], want, rtol=1e-4, atol=1e-5)
  grad = jax.grad(lambda g: jnp.sum(ops.scalar_decay(q, k, v, g)[0]))(g)
  assert np.isfinite(grad).all() and not grad[:, 20].any()
