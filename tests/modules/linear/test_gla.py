import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.linear import GatedLinearAttention

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "fl_gla.npz"
WEIGHTS = {
  ("q", "kernel"): "q_proj.weight",
  ("k", "kernel"): "k_proj.weight",
  ("v", "kernel"): "v_proj.weight",
  ("gate_down", "kernel"): "gk_proj.0.weight",
  ("gate_up", "kernel"): "gk_proj.1.weight",
  ("gate_up", "bias"): "gk_proj.1.bias",
  ("output_gate", "kernel"): "g_proj.weight",
  ("norm", "scale"): "g_norm_swish_gate.weight",
  ("out", "kernel"): "o_proj.weight",
}


def test_it_is_the_layer_of_flash_linear_attention():
  oracle = np.load(ORACLE)
  params = {}
  for (module, name), source in WEIGHTS.items():
    params.setdefault(module, {})[name] = jnp.asarray(oracle[source].T)
  mixer = GatedLinearAttention(features=32, num_heads=2, dtype=jnp.float32)
  y, _ = jax.jit(mixer.apply)({"params": params}, jnp.asarray(oracle["x"]))
  np.testing.assert_allclose(y, oracle["y"], rtol=1e-4, atol=1e-5)


def test_decays_begin_near_one():
  mixer = GatedLinearAttention(features=32, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(0), (1, 2, 32))
  params = jax.jit(mixer.init)(jax.random.key(1), x)
  params = jax.tree.map(jnp.zeros_like, params)  # The gate says neither yes nor no.
  state = jnp.ones((1, 4, 4, 8))
  _, last = jax.jit(mixer.apply)(params, x[:, :1], state)
  np.testing.assert_allclose(last, 0.5 ** (1 / 16) * state, rtol=1e-5)


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="num_heads that divide 0.5 x features = 16"):
    GatedLinearAttention(features=32, num_heads=5)
