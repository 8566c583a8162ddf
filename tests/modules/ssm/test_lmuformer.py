import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.ssm import LMU, LMUFormer, SpikingLMUFormer
from jaxseq.ops.ssm.legendre_delay import legendre_delay


def rms(x, p, name):
  x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)
  return x * p[f"{name}_norm"]["scale"] + p[f"{name}_shift"]


def dense(x, p, name):
  return x @ p[name]["kernel"] + p[name]["bias"]


def test_it_gives_what_the_papers_block_adds():
  mixer = LMUFormer(features=6, window=9.0, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  y, _ = jax.jit(mixer.apply)(params, x)
  lmu = LMU(features=6, memory_size=6, window=9.0, dtype=jnp.float32)
  h, _ = jax.jit(lmu.apply)({"params": params["params"]["lmu"]}, x)
  p, x, h = jax.tree.map(np.float64, (params["params"], x, h))
  a = rms(dense(h, p, "mixed"), p, "mixed")
  z = x + a
  f = np.float64(nn.gelu(rms(dense(z, p, "up"), p, "up").astype(np.float32)))
  f = np.maximum(rms(dense(f, p, "down"), p, "down"), 0)
  testing.assert_close(y, (z + f - x).astype(np.float32))


def fire(current, threshold=1.0):
  v, spikes = np.zeros(current[:, 0].shape), []
  for x in current.swapaxes(0, 1):
    u = v + (x - v) / 2
    spikes.append(u >= threshold)
    v = np.where(u >= threshold, 0, u)
  return np.stack(spikes, 1).astype(np.float64)


def test_spikes_alone_pass_between_the_layers_of_the_spiking_block():
  mixer = SpikingLMUFormer(features=6, window=9.0, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  for name, leaf in params["params"].items():  # So that all layers fire.
    if name.endswith("_norm"):
      leaf["scale"] = 3 * leaf["scale"]
  y, _ = jax.jit(mixer.apply)(params, x)
  p, x = jax.tree.map(np.float64, (params["params"], x))
  A, B = map(np.float64, legendre_delay(12, 9.0))
  s = fire(rms(x, p, "input"), 0.5)
  u = fire(dense(s, p, "u"))
  m, memories = np.zeros((2, 12)), []
  for t in range(x.shape[1]):
    m = m @ A.T + u[:, t] * B
    memories.append(m)
  m = fire(rms(np.stack(memories, 1), p, "memory"))
  h = fire(rms(dense(np.concatenate([m, s], -1), p, "hidden"), p, "hidden"))
  a = rms(dense(h, p, "mixed"), p, "mixed")
  up = fire(rms(x + a, p, "up"))
  down = fire(rms(dense(up, p, "up"), p, "down"))
  assert all(0 < layer.mean() < 1 for layer in (s, u, m, h, up, down))
  testing.assert_close(y, (a + dense(down, p, "down")).astype(np.float32))


def test_neurons_fire_from_the_first_step():
  mixer = SpikingLMUFormer(features=16, window=9.0)
  x = jax.random.normal(jax.random.key(1), (2, 40, 16))
  (y, state), _ = jax.jit(mixer.init_with_output)(jax.random.key(0), x)
  assert np.abs(state.memory).max() > 0.1  # So u has fired.
  assert np.abs(y).max() > 0.1
