import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.linear import JRTRNN, Based

MIXER = JRTRNN(features=32, dtype=jnp.float32)


def run(prefix_length, x, state=None):
  params, _ = testing.example(MIXER)
  length = jnp.asarray(prefix_length, jnp.int32)
  return jax.jit(MIXER.apply)(params, x, state, prefix_length=length)


def test_without_a_prefix_it_is_based():
  params, x = testing.example(MIXER)
  y, _ = jax.jit(MIXER.apply)(params, x)
  shared = {k: v for k, v in params["params"].items() if "prefix" not in k}
  want, _ = jax.jit(Based(features=32, dtype=jnp.float32).apply)({"params": shared}, x)
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)


def test_a_token_sees_the_whole_prefix_and_nothing_after_it():
  _, x = testing.example(MIXER)
  y, _ = run([8, 0], x)
  changed, _ = run([8, 0], x.at[:, 7].add(1.0))
  assert np.abs(changed[0, :7] - y[0, :7]).max() > 1e-3
  np.testing.assert_array_equal(changed[1, :7], y[1, :7])
  changed, _ = run([8, 0], x.at[:, 8].add(1.0))
  np.testing.assert_allclose(changed[:, :8], y[:, :8], rtol=1e-5, atol=1e-6)


def test_decoding_goes_on_from_the_prefix():
  _, x = testing.example(MIXER)
  whole, last = run([8, 12], x)
  head, state = run([8, 12], x[:, :12])
  tail, got_last = run([8, 12], x[:, 12:], state)
  testing.assert_close(jnp.concatenate([head, tail], axis=1), whole)
  testing.assert_close(got_last, last)
