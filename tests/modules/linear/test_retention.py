import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.linear import Retention

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "fl_retention.npz"
WEIGHTS = {
  ("q", "kernel"): "q_proj.weight",
  ("k", "kernel"): "k_proj.weight",
  ("v", "kernel"): "v_proj.weight",
  ("gate", "kernel"): "g_proj.weight",
  ("norm", "scale"): "g_norm_swish_gate.weight",
  ("out", "kernel"): "o_proj.weight",
}


def test_it_is_the_layer_of_flash_linear_attention():
  oracle = np.load(ORACLE)
  params = {}
  for (module, name), source in WEIGHTS.items():
    params.setdefault(module, {})[name] = jnp.asarray(oracle[source].T)
  mixer = Retention(features=32, num_heads=2, dtype=jnp.float32)
  y, _ = jax.jit(mixer.apply)({"params": params}, jnp.asarray(oracle["x"]))
  np.testing.assert_allclose(y, oracle["y"], rtol=1e-4, atol=1e-5)


def test_a_head_forgets_at_its_own_fixed_rate():
  mixer = Retention(features=32, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(0), (1, 10, 32))
  params = jax.jit(mixer.init)(jax.random.key(1), x)
  state = mixer.initial_state(1)
  state = state._replace(memory=jnp.ones_like(state.memory))
  _, last = jax.jit(mixer.apply)(params, x * 0, state)
  gamma = np.array([31 / 32, 63 / 64, 127 / 128, 255 / 256])
  want = np.broadcast_to(gamma[:, None, None] ** 10, last.memory.shape[1:])
  np.testing.assert_allclose(last.memory[0], want, rtol=1e-5)
  assert last.length == 10


def test_heads_that_leave_odd_parts_are_named():
  with pytest.raises(ValueError, match="Retention needs num_heads .* got 32 for 32"):
    Retention(features=32, num_heads=32)
