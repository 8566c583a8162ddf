import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.delta import GatedDeltaNet, GatedDeltaNet2, KimiDeltaAttention

D, H, K = 16, 2, 8
X = jax.random.normal(jax.random.key(0), (1, 7, D))


def start(cls, **attributes):
  mixer = cls(features=D, num_heads=H, head_dim=K, dtype=jnp.float32, **attributes)
  return mixer, nn.unbox(jax.jit(mixer.init)(jax.random.key(1), X))["params"]


def test_with_one_decay_a_head_its_memory_is_that_of_gated_delta_net():
  kimi, params = start(KimiDeltaAttention)
  other, theirs = start(GatedDeltaNet, expand_v=1.0)
  dt = jnp.asarray([-1.0, 0.5])
  params["decay_up"]["kernel"] *= 0
  params["dt_bias"] = jnp.repeat(dt, K)
  theirs["dt"]["kernel"] *= 0
  theirs["dt_bias"] = dt
  shared = ("q", "k", "v", "q_conv", "k_conv", "v_conv", "beta", "A_log")
  theirs |= {name: params[name] for name in shared}
  _, got = jax.jit(kimi.apply)({"params": params}, X)
  _, want = jax.jit(other.apply)({"params": theirs}, X)
  np.testing.assert_allclose(got.memory, want.memory, rtol=1e-4, atol=1e-6)


def test_gated_delta_net2_whose_gates_are_one_number_is_kimi_delta_attention():
  kimi, params = start(KimiDeltaAttention)
  other, theirs = start(GatedDeltaNet2)
  y, _ = jax.jit(kimi.apply)({"params": params}, X)
  beta = {"kernel": jnp.repeat(params.pop("beta")["kernel"], K, axis=1)}
  assert theirs.keys() - params.keys() == {"erase", "write"}
  z, _ = jax.jit(other.apply)({"params": params | {"erase": beta, "write": beta}}, X)
  np.testing.assert_allclose(z, y, rtol=1e-4, atol=1e-6)


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(
    ValueError, match="KimiDeltaAttention needs num_heads that divide"
  ):
    KimiDeltaAttention(features=32, num_heads=5)
