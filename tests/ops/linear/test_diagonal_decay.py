import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


@pytest.mark.parametrize("form", ["chunked", "associative", "recurrent"])
def test_it_gives_the_numbers_of_flash_linear_attention(form):
  oracle = np.load(ORACLES / "fla_gla.npz")

  @jax.jit
  def run(arrays, cotangents):
    op = lambda *tokens_and_state: ops.diagonal_decay(
      *tokens_and_state[:-1], initial_state=tokens_and_state[-1], implementation=form
    )
    out, pullback = jax.vjp(op, *arrays)
    return out, pullback(cotangents)

  names = ("q", "k", "v", "gk", "h0")
  cotangents = oracle["cot_o"], oracle["cot_final_state"]
  out, grads = run([oracle[n] for n in names], cotangents)
  for name, x in zip(("o", "final_state"), out):
    np.testing.assert_allclose(x, oracle[name], rtol=1e-5, atol=1e-5)
  for name, x in zip(names, grads):
    np.testing.assert_allclose(x, oracle[f"grad_{name}"], rtol=1e-5, atol=1e-5)


def test_with_one_decay_for_all_channels_it_is_the_scalar_decay():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 37, 2, 4))
  g = -jax.random.exponential(jax.random.key(1), (1, 37, 2))
  got = ops.diagonal_decay(q, k, v, jnp.broadcast_to(g[..., None], q.shape))
  want = ops.scalar_decay(q, k, v, g, implementation="recurrent")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), got, want)


def test_a_channel_decayed_to_nothing_leaves_the_others():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 37, 2, 4))
  g = jnp.zeros(q.shape).at[:, 20, :, 1].set(-jnp.inf)
  o, state = ops.diagonal_decay(q, k, v, g)
  k = k.at[:, :20, :, 1].set(0)
  want, last = ops.linear_attention(q, k, v)
  np.testing.assert_allclose(o[:, 20:], want[:, 20:], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(state, last, rtol=1e-4, atol=1e-5)
