import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.rnn import RecurrentLMU
from jaxseq.ops.ssm.legendre_delay import legendre_delay


def test_it_is_the_papers_unit():
  mixer = RecurrentLMU(features=6, memory_size=5, window=7.0, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  y, _ = jax.jit(mixer.apply)(params, x)
  p, x = jax.tree.map(np.float64, (params["params"], x))
  A, B = map(np.float64, legendre_delay(5, 7.0))
  h, m, want = np.zeros((2, 6)), np.zeros((2, 5)), []
  for t in range(x.shape[1]):
    u = x[:, t] @ p["e_x"]["kernel"][:, 0] + h @ p["e_h"] + m @ p["e_m"]
    m = m @ A.T + u[:, None] * B
    h = np.tanh(x[:, t] @ p["W_x"]["kernel"] + h @ p["W_h"].T + m @ p["W_m"].T)
    want.append(h)
  testing.assert_close(y, np.stack(want, 1).astype(np.float32))


def test_a_window_of_no_time_is_named():
  with pytest.raises(ValueError, match="RecurrentLMU needs window > 0; got 0"):
    RecurrentLMU(features=6, window=0)
