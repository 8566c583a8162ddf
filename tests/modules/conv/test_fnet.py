import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.modules.conv import FNet

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "hf_fnet.npz"


def test_it_is_the_transform_of_transformers():
  oracle = np.load(ORACLE)
  run = lambda x: FNet(features=16).apply({}, x)[0]
  y, pullback = jax.vjp(jax.jit(run), jnp.asarray(oracle["x"]))
  np.testing.assert_allclose(y, oracle["y"], rtol=1e-4, atol=1e-4)
  (grad,) = pullback(jnp.asarray(oracle["cot_y"]))
  np.testing.assert_allclose(grad, oracle["grad_x"], rtol=1e-4, atol=1e-4)
