import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import HGRN2

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "fl_hgrn2.npz"
WEIGHTS = dict(q="q_proj", forget="f_proj", input="i_proj", out="o_proj")


def test_it_is_the_layer_of_flash_linear_attention():
  oracle = np.load(ORACLE)
  params = {
    name: dict(kernel=jnp.asarray(oracle[f"{source}.weight"].T))
    for name, source in WEIGHTS.items()
  }
  params["norm"] = dict(scale=jnp.asarray(oracle["g_norm.weight"]))
  mixer = HGRN2(features=32, num_heads=2, dtype=jnp.float32)
  y, _ = jax.jit(mixer.apply)({"params": params}, jnp.asarray(oracle["x"]))
  np.testing.assert_allclose(y, oracle["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bound", [0.0, 0.9])
def test_no_gate_forgets_more_than_the_bound_allows(bound):
  mixer = HGRN2(features=32, lower_bound=bound, dtype=jnp.float32)
  params, x = testing.example(mixer)
  state = jnp.ones_like(mixer.initial_state(2))
  silent = dict(input=jax.tree.map(jnp.zeros_like, params["params"]["input"]))
  params = {"params": params["params"] | silent}
  _, last = jax.jit(mixer.apply)(params, 100 * x[:, :1], state)
  np.testing.assert_allclose(last.min(), bound, atol=1e-6)
  assert last.max() <= 1


def test_a_bound_of_one_is_refused():
  with pytest.raises(ValueError, match="lower_bound"):
    HGRN2(features=32, lower_bound=1.0)
