import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.linear import POPRetention, Retention

MIXER = POPRetention(features=32, block_size=3, num_predictions=2, dtype=jnp.float32)
BLOCKS = 4


def test_it_is_retention_of_each_interleaved_sequence():
  """Of all blocks so far and the predictions after the last, one sequence a block."""
  params, x = testing.example(MIXER)
  x = x[:, : BLOCKS * 5]
  y, _ = jax.jit(MIXER.apply)(params, x)
  retention = Retention(features=32, dtype=jnp.float32)
  groups = x.reshape(2, BLOCKS, 5, 32)
  got = y.reshape(groups.shape)
  for n in range(BLOCKS):
    observed = groups[:, : n + 1, :3].reshape(2, -1, 32)
    sequence = jnp.concatenate([observed, groups[:, n, 3:]], axis=1)
    want, _ = jax.jit(retention.apply)(params, sequence)
    np.testing.assert_allclose(got[:, n], want[:, -5:], rtol=1e-4, atol=1e-5)


def test_predictions_leave_no_trace():
  params, x = testing.example(MIXER)
  x = x[:, : BLOCKS * 5]
  predicts = jnp.arange(x.shape[1]) % 5 >= 3
  y, state = jax.jit(MIXER.apply)(params, x)
  other = jnp.where(predicts[:, None], x + 1.0, x)
  z, other_state = jax.jit(MIXER.apply)(params, other)
  np.testing.assert_allclose(z[:, ~predicts], y[:, ~predicts], rtol=1e-5, atol=1e-6)
  assert np.abs(z[:, predicts] - y[:, predicts]).min(axis=-1).max() > 1e-3
  testing.assert_close(other_state.memory.observed, state.memory.observed)
