import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.delta import Comba, GatedDeltaNet

X = jax.random.normal(jax.random.key(0), (1, 7, 16))


def start(cls):
  mixer = cls(features=16, num_heads=2, dtype=jnp.float32)
  return mixer, nn.unbox(jax.jit(mixer.init)(jax.random.key(1), X))["params"]


def test_without_decay_and_with_full_feedback_its_memory_is_that_of_gated_delta_net():
  comba, params = start(Comba)
  params["A_log"] = jnp.full(2, -100.0)
  params["feedback"] = jnp.full(2, 100.0)
  _, got = jax.jit(comba.apply)({"params": params}, X)
  del params["feedback"], params["correction"]
  _, want = jax.jit(start(GatedDeltaNet)[0].apply)({"params": params}, X)
  np.testing.assert_allclose(got.memory, want.memory, rtol=1e-4, atol=1e-6)


def test_a_large_correction_reads_the_memory_under_the_key_itself():
  comba, params = start(Comba)
  apply = jax.jit(comba.apply)
  run = lambda d: apply({"params": params | {"correction": jnp.full(2, d)}}, X)
  minus, plus = run(1e6)[0], run(-1e6)[0]
  np.testing.assert_allclose(minus, -plus, rtol=1e-3, atol=1e-5)
  assert np.abs(plus).max() > 0.01


def test_a_beta_beyond_one_is_refused():
  with pytest.raises(ValueError, match="negative_eigenvalues = False"):
    Comba(features=32, negative_eigenvalues=True)
