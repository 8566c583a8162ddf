import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


@pytest.mark.parametrize("form", ["chunked", "parallel", "recurrent"])
def test_it_gives_the_numbers_of_flash_linear_attention(form):
  oracle = np.load(ORACLES / "fla_linear_attn.npz")

  @jax.jit
  def run(arrays, cotangents):
    op = lambda *tokens_and_state: ops.linear_attention(
      *tokens_and_state[:-1], initial_state=tokens_and_state[-1], implementation=form
    )
    out, pullback = jax.vjp(op, *arrays)
    return out, pullback(cotangents)

  names = ("q", "k", "v", "h0")
  cotangents = oracle["cot_o"], oracle["cot_final_state"]
  out, grads = run([oracle[n] for n in names], cotangents)
  for name, x in zip(("o", "final_state"), out):
    np.testing.assert_allclose(x, oracle[name], rtol=1e-5, atol=1e-5)
  for name, x in zip(names, grads):
    np.testing.assert_allclose(x, oracle[f"grad_{name}"], rtol=1e-5, atol=1e-5)


def test_a_channel_of_ones_normalises():
  oracle = np.load(ORACLES / "fla_linear_attn.npz")
  v = np.concatenate([oracle["v"], np.ones((*oracle["v"].shape[:3], 1))], axis=-1)
  o, _ = ops.linear_attention(oracle["q_pos"], oracle["k_pos"], jnp.asarray(v))
  o = o[..., :-1] / o[..., -1:]
  np.testing.assert_allclose(o, oracle["o_norm"], rtol=1e-5, atol=1e-5)


def test_the_order_of_past_tokens_does_not_matter():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 37, 2, 4))
  order = np.append(np.random.default_rng(0).permutation(36), 36)
  o, state = ops.linear_attention(q, k, v)
  p, last = ops.linear_attention(q, k[:, order], v[:, order])
  np.testing.assert_allclose(p[:, -1], o[:, -1], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(last, state, rtol=1e-4, atol=1e-5)
