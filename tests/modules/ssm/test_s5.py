import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.ssm import S5

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


def test_its_system_is_that_of_discretax():
  oracle = {k: jnp.asarray(v) for k, v in np.load(ORACLES / "dx_s5.npz").items()}
  params = {name: oracle[name] for name in "BCD"}
  params |= dict(lambda_real=oracle["Lambda_re"], lambda_imaginary=oracle["Lambda_im"])
  params["log_dt"] = oracle["log_step"][:, 0]
  # A gate that is wide open leaves GELU alone between the system and the output.
  params["gate"] = dict(kernel=jnp.zeros((6, 6)), bias=jnp.full(6, 50.0))
  mixer = S5(features=6, state_size=8, num_blocks=1, dtype=jnp.float32)
  y, _ = jax.jit(mixer.apply)({"params": params}, oracle["x"][None])
  np.testing.assert_allclose(y[0], jax.nn.gelu(oracle["y"]), atol=1e-5)


def test_it_begins_with_the_eigenvalues_of_hippo_in_blocks():
  mixer = S5(features=8, state_size=32, num_blocks=4)
  params = jax.jit(mixer.init)(jax.random.key(0), jnp.ones((1, 2, 8)))["params"]
  real, imaginary = params["lambda_real"].value, params["lambda_imaginary"].value
  np.testing.assert_allclose(real, -0.5, atol=1e-6)
  np.testing.assert_allclose(imaginary.reshape(4, 4), [imaginary[:4]] * 4)
  assert (imaginary > 0).all()


def test_blocks_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="num_blocks that divide state_size / 2 = 16"):
    S5(features=8, state_size=32, num_blocks=3)
