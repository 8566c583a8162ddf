import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.rnn import RWKV4, RWKV4ChannelMix, SpikeGPT, SpikeGPTChannelMix


@pytest.mark.parametrize(
  "cls, inside", [(SpikeGPT, RWKV4), (SpikeGPTChannelMix, RWKV4ChannelMix)]
)
def test_it_fires_where_the_layer_inside_has_charged_a_neuron(cls, inside):
  mixer = cls(features=16, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  run = jax.jit(functools.partial(mixer.apply, mutable=["gates"]))
  (spikes, _), shown = run(params, x)
  np.testing.assert_array_equal(shown["gates"]["spikes"][0], spikes)
  inner = inside(features=16, dtype=jnp.float32)
  y, _ = jax.jit(inner.apply)({"params": params["params"]["inner"]}, x)
  v, want = np.zeros((2, 16)), []
  for current in np.asarray(y).swapaxes(0, 1):
    u = v + (current - v) / 2
    want.append(u >= 1)
    v = np.where(u >= 1, 0, u)
  np.testing.assert_array_equal(spikes, np.stack(want, 1))
  assert 0 < spikes.mean() < 0.5


@pytest.mark.parametrize("cls", [SpikeGPT, SpikeGPTChannelMix])
def test_neurons_fire_from_the_first_step(cls):
  mixer = cls(features=16)
  x = np.random.default_rng(0).normal(size=(1, 40, 16)).astype(np.float32)
  (spikes, _), _ = jax.jit(mixer.init_with_output)(jax.random.key(0), x)
  assert 0 < spikes.mean() < 0.5
