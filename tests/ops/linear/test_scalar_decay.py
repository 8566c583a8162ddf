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
  run = lambda q, k, v, g, state: ops.scalar_decay(
    q, k, v, g, initial_state=state, implementation=form
  )
  names = ("q", "k", "v", "g", "h0")
  out, pullback = jax.vjp(run, *(jnp.asarray(oracle[n]) for n in names))
  grads = pullback(
    (jnp.asarray(oracle["cot_o"]), jnp.asarray(oracle["cot_final_state"]))
  )
  for name, x in zip(("o", "final_state"), out):
    np.testing.assert_allclose(x, oracle[name], rtol=1e-5, atol=1e-5)
  for name, x in zip(names, grads):
    np.testing.assert_allclose(x, oracle[f"grad_{name}"], rtol=1e-5, atol=1e-5)


def test_with_the_decays_of_retnet_it_is_retention():
  oracle = np.load(ORACLES / "fla_retention.npz")  # [B, H, T, K]
  q, k, v = (jnp.asarray(oracle[n]).swapaxes(1, 2) for n in "qkv")
  log_decay = np.broadcast_to(np.log(1 - 2.0 ** (-5 - np.arange(4))), q.shape[:3])
  run = lambda *qkv: ops.scalar_decay(*qkv, jnp.asarray(log_decay))[0].swapaxes(1, 2)
  o, pullback = jax.vjp(run, q, k, v)
  np.testing.assert_allclose(o, oracle["o"], rtol=1e-5, atol=1e-5)
  for name, x in zip("qkv", pullback(jnp.asarray(oracle["cot_o"]))):
    want = oracle[f"grad_{name}"].swapaxes(1, 2)
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-5)


def test_without_decay_it_is_linear_attention():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 37, 2, 4))
  got = ops.scalar_decay(q, k, v, jnp.zeros((1, 37, 2)))
  want = ops.linear_attention(q, k, v, implementation="recurrent")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), got, want)


def test_a_decay_to_nothing_forgets_and_its_gradient_is_zero():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 37, 2, 4))
  g = jnp.zeros((1, 37, 2)).at[:, 20].set(-jnp.inf)
  o, _ = ops.scalar_decay(q, k, v, g)
  want, _ = ops.linear_attention(q[:, 20:], k[:, 20:], v[:, 20:])
  np.testing.assert_allclose(o[:, 20:], want, rtol=1e-4, atol=1e-5)
  grad = jax.grad(lambda g: jnp.sum(ops.scalar_decay(q, k, v, g)[0]))(g)
  assert np.isfinite(grad).all() and not grad[:, 20].any()
