import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.ssm import Longhorn
from jaxseq.modules.ssm.longhorn import START, LonghornSSM


def test_with_one_state_each_step_solves_its_regression():
  """min_h (h - h')^2 + beta (k h - x)^2, by the exact, non-diagonal solution."""
  ssm = LonghornSSM(width=4, state_size=1, dt_rank=2, start=START, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(1), (1, 6, 4))
  params = nn.unbox(ssm.init(jax.random.key(0), x))
  p = {
    name: np.asarray(v["kernel"] if isinstance(v, dict) else v, np.float64)
    for name, v in params["params"].items()
  }
  y, state = ssm.apply(params, x)
  padded = np.concatenate([np.zeros((3, 4)), np.asarray(x[0], np.float64)])
  h, want = np.zeros(4), []
  for t in range(6):
    u = np.sum(p["conv"] * padded[t : t + 4], axis=0) + p["conv_bias"]
    u = u / (1 + np.exp(-u))
    beta = 1 / (1 + np.exp(-(u @ p["dt_down"] @ p["dt_up"] + p["dt_bias"])))
    k, q = u @ p["BC"]
    h = np.linalg.inv(np.diag(1 + beta * k * k)) @ (h + beta * k * u)
    want.append(q * h + p["D"] * u)
  np.testing.assert_allclose(y[0], want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(state.memory[0, :, 0], h, rtol=1e-5)


def test_it_forgets_no_more_than_a_key_finds():
  mixer = Longhorn(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  _, sown = jax.jit(lambda p, x: mixer.apply(p, x, mutable=["gates"]))(params, x)
  decay = np.exp(jax.tree.leaves(sown)[0])
  assert decay.min() > 0 and decay.max() <= 1
  # The shares lost add up over the states to less than one.
  assert np.sum(1 - decay, axis=-1).max() < 1
