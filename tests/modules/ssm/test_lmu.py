import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.ssm import LMU
from jaxseq.ops.ssm.legendre_delay import legendre_delay


def test_it_is_the_papers_layer():
  mixer = LMU(features=6, memory_size=5, num_channels=2, window=7.0, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  y, state = jax.jit(mixer.apply)(params, x)
  p, x = jax.tree.map(np.float64, (params["params"], x))
  A, B = map(np.float64, legendre_delay(5, 7.0))
  relu = lambda x: np.maximum(x, 0)
  u = relu(x @ p["u"]["kernel"] + p["u"]["bias"])
  m, want = np.zeros((2, 2, 5)), []
  for t in range(x.shape[1]):
    m = m @ A.T + u[:, t, :, None] * B
    h = m.reshape(2, 10) @ p["memory"]["kernel"] + p["input"]["bias"]
    want.append(relu(h + x[:, t] @ p["input"]["kernel"]))
  testing.assert_close(y, np.stack(want, 1).astype(np.float32))
  testing.assert_close(state, m.astype(np.float32))


def test_a_window_of_no_time_is_named():
  with pytest.raises(ValueError, match="LMU needs window > 0; got 0"):
    LMU(features=6, window=0)
