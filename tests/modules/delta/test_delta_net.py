import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.modules.delta import DeltaNet

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "fl_delta_net.npz"


def test_it_is_the_layer_of_flash_linear_attention():
  oracle = np.load(ORACLE)
  kernel = lambda name: dict(kernel=jnp.asarray(oracle[f"{name}_proj.weight"].T))
  params = {name: kernel(name) for name in "qkv"}
  params |= dict(beta=kernel("b"), out=kernel("o"))
  params["norm"] = dict(scale=jnp.asarray(oracle["o_norm.weight"]))
  for name in "qkv":
    params[f"{name}_conv"] = jnp.asarray(oracle[f"{name}_conv1d.weight"][:, 0].T)
  mixer = DeltaNet(features=32, num_heads=2, dtype=jnp.float32)
  y, _ = jax.jit(mixer.apply)({"params": params}, jnp.asarray(oracle["x"]))
  np.testing.assert_allclose(y, oracle["y"], rtol=1e-4, atol=1e-5)
