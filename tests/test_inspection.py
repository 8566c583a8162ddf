import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import inspection, ops, registry, testing
from jaxseq.modules.mixer import Mixer


class Decay(Mixer):
  """y_t = 0.5 y_{t-1} + x_t, whose mixing matrix is known."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    return ops.diagonal_recurrence(jnp.full(self.features, 0.5), x)


def test_the_matrix_of_a_linear_mixer_is_its_own():
  x = jax.random.normal(jax.random.key(0), (6, 3))
  M = inspection.mixing_matrix(Decay(features=3), {}, x)
  lag = np.arange(6)[:, None] - np.arange(6)
  np.testing.assert_allclose(M, np.where(lag >= 0, 0.5**lag, 0), rtol=1e-6)


@pytest.mark.parametrize("name", ["attention", "gated_delta_net", "lstm"])
def test_a_causal_mixer_has_a_lower_triangular_matrix(name):
  mixer = registry.mixer(name)(features=8, num_heads=2, dtype=jnp.float32)
  params, x = testing.example(mixer)
  M = jax.jit(inspection.mixing_matrix, static_argnums=0)(mixer, params, x[0, :7])
  assert not np.triu(M, 1).any() and np.all(np.diag(M) > 0)


def test_memory_lengths_are_those_of_the_gates():
  mixer = registry.mixer("retnet")(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  gamma = 1 - 2.0 ** -(5 + np.arange(4))
  got = inspection.memory_length(mixer, params, x[0])
  np.testing.assert_allclose(gamma**got, np.exp(-1), rtol=1e-4)


@pytest.mark.parametrize("name", ["attention", "spike_gpt"])
def test_a_mixer_without_decays_is_named(name):
  mixer = registry.mixer(name)(features=32)
  params, x = testing.example(mixer)
  with pytest.raises(ValueError, match=f"{type(mixer).__name__} has no decays"):
    inspection.memory_length(mixer, params, x[0])
