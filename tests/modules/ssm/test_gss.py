import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.modules.ssm import GSS


class System(GSS):
  """Without what follows it."""

  @nn.compact
  def __call__(self, x):
    return self._system(x, None, None)


def test_its_kernel_is_the_papers_and_one_lambda_serves_all_channels():
  mixer = System(features=8, num_channels=3, state_size=4, dtype=jnp.float32)
  impulse = jnp.zeros((1, 10, 3)).at[0, 0].set(1)
  variables = jax.jit(mixer.init)(jax.random.key(0), impulse)
  params = {k: np.asarray(p.value, float) for k, p in variables["params"].items()}
  y, _ = jax.jit(mixer.apply)(variables, impulse)
  values = -np.exp(params["log_decay"]) + 1j * np.exp(params["log_frequency"])
  C = params["C"][..., 0] + 1j * params["C"][..., 1]
  powers = np.exp(values[:, None] * np.arange(10))
  want = np.einsum("hn,nl->lh", C * np.expm1(values) / values, powers).real
  want[0] += params["D"]
  np.testing.assert_allclose(y[0], want, rtol=1e-4, atol=1e-5)
