import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.ssm import S4, LiquidS4

OPTIONS = dict(features=3, state_size=8, kernel_length=16)


class System(LiquidS4):
  """Without what follows it."""

  @nn.compact
  def __call__(self, x):
    return self._system(x)[0]


class Discretized(S4):
  """The system inside."""

  @nn.compact
  def __call__(self, x):
    return self._discretized(x.shape[1])


@pytest.mark.parametrize("kernel", ["PB", "KB"])
@pytest.mark.parametrize("T", [12, 20])  # With the Cauchy kernel, and without.
def test_it_adds_the_terms_of_the_unrolled_recurrence(kernel, T):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, T, 3)), jnp.float32)
  mixer = System(**OPTIONS, kernel=kernel, degree=3)
  variables = jax.jit(mixer.init)(jax.random.key(0), x)
  y = jax.jit(mixer.apply)(variables, x)[0]
  a, b, C, _ = (
    None if z is None else np.asarray(z, float)
    for z in jax.jit(Discretized(**OPTIONS).apply)(variables, x)
  )
  u = np.asarray(x[0], float)
  late = lambda n: np.pad(u, ((n, 0), (0, 0)))[:T]
  total = 2 * b[:, :4].sum(axis=1)
  liquid = total * u * late(1) + total**2 * u * late(1) * late(2)
  h, want = np.zeros((3, 8)), np.asarray(variables["params"]["D"].value) * u
  for t in range(T):
    driven = u[t] + (liquid[t] if kernel == "KB" else 0)
    h = np.einsum("dij,dj->di", a, h) + b * driven[:, None]
    want[t] += np.einsum("dn,dn->d", C[:, 0], h)
    want[t] += np.einsum("dn,dn->d", C[:, 0], b) * (liquid[t] if kernel == "PB" else 0)
  testing.assert_close(y, want, jnp.float32)


def test_wrong_options_are_named():
  with pytest.raises(ValueError, match="degree at least 2; got 'AB' and 2"):
    LiquidS4(**OPTIONS, kernel="AB")
  with pytest.raises(ValueError, match="got 'PB' and 1"):
    LiquidS4(**OPTIONS, degree=1)
