import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "fla_log_linear_attn.npz"


@pytest.mark.parametrize("form", ["chunked", "parallel", "recurrent"])
def test_it_gives_the_numbers_of_flash_linear_attention(form):
  oracle = np.load(ORACLE)
  names = ("q", "k", "v", "g", "level_scales")

  def run(q, k, *rest):
    q, k = (jnp.repeat(x, 2, axis=2) for x in (q, k))
    return ops.log_linear(q, k, *rest, scale=1.0, implementation=form)[0]

  o, pullback = jax.vjp(run, *(jnp.asarray(oracle[n]) for n in names))
  np.testing.assert_allclose(o, oracle["o"], rtol=1e-5, atol=1e-5)
  for name, x in zip(names, pullback(jnp.asarray(oracle["cot_o"]))):
    np.testing.assert_allclose(x, oracle[f"grad_{name}"], rtol=1e-4, atol=2e-5)
