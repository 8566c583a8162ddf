import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.rnn import SRU, LinearSRU

ORACLE = np.load(pathlib.Path(__file__).parents[2] / "oracles" / "sru.npz")


def test_it_is_the_layer_of_the_authors():
  mixer = SRU(features=6, dtype=jnp.float32)
  kernel = ORACLE["weight"].reshape(6, 6, 3).swapaxes(1, 2).reshape(6, 18)
  params = dict(input=dict(kernel=kernel), bias=ORACLE["bias"].reshape(2, 6))
  params["peepholes"] = ORACLE["weight_c"].reshape(2, 6)
  y, c = jax.jit(mixer.apply)(
    {"params": params}, ORACLE["x"].swapaxes(0, 1), ORACLE["c0"]
  )
  np.testing.assert_allclose(y.swapaxes(0, 1), ORACLE["h"], atol=1e-6)
  np.testing.assert_allclose(c, ORACLE["c"], atol=1e-6)


def test_without_peepholes_it_is_the_linear_unit():
  mixer, linear = (cls(features=6, dtype=jnp.float32) for cls in (SRU, LinearSRU))
  params, x = nn.unbox(testing.example(mixer))
  params["params"]["peepholes"] = jnp.zeros((2, 6))
  got = jax.jit(mixer.apply)(params, x)
  del params["params"]["peepholes"]
  testing.assert_close(got, jax.jit(linear.apply)(params, x))


def test_a_closed_highway_carries_the_input_at_its_scale():
  mixer = SRU(features=6, highway_bias=-100.0, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(1), (1, 5, 6))
  y, _ = jax.jit(lambda x: mixer.init_with_output(jax.random.key(0), x)[0])(x)
  np.testing.assert_allclose(y, x, rtol=1e-6)
