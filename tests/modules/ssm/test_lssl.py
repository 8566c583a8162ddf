import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxseq import testing
from jaxseq.modules.ssm import LSSL
from jaxseq.ops.ssm import hippo


def test_the_convolution_is_the_recurrence_with_more_outputs_than_one():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 40, 3)), jnp.float32)
  options = dict(features=3, state_size=8, num_outputs=2, dtype=jnp.float32)
  params = jax.jit(LSSL(**options).init)(jax.random.key(0), x)
  run = lambda form: jax.jit(LSSL(**options, implementation=form).apply)(params, x)
  testing.assert_close(run("convolution"), run("recurrent"))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_lssl_f_holds_hippo_and_discretises_it_as_scipy_does(alpha):
  mixer = LSSL(features=2, state_size=6, learned=False, alpha=alpha)
  x = jnp.zeros((1, 3, 2)).at[0, 0].set(1)
  params = jax.jit(mixer.init)(jax.random.key(0), x)
  assert set(params["params"]) == {"C", "D", "out"}
  _, state = jax.jit(mixer.apply)(params, x)
  A, B = hippo.legs(6)
  for channel, dt in enumerate((0.001, 0.1)):
    system = (A, B[:, None], np.eye(6), np.zeros((6, 1)))
    a, b, *_ = scipy.signal.cont2discrete(system, dt, "gbt", alpha)
    np.testing.assert_allclose(state[0, channel], (a @ a @ b)[:, 0], rtol=1e-4)


def test_an_unknown_measure_is_named():
  with pytest.raises(ValueError, match="measure in .*'legt'.*; got 'legd'"):
    LSSL(features=4, measure="legd")
