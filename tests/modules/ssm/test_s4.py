import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.ssm import S4


class System(S4):
  """Without what follows it."""

  @nn.compact
  def __call__(self, x):
    return self._system(x)


def test_the_convolution_of_a_long_input_and_of_a_short_one_is_the_recurrence():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 40, 3)), jnp.float32)
  for length in (16, 64):  # Without the Cauchy kernel, and with it.
    build = lambda form, n=length: System(
      features=3, state_size=8, kernel_length=n, implementation=form
    )
    params = jax.jit(build("auto").init)(jax.random.key(0), x)
    want = jax.jit(build("recurrent").apply)(params, x)
    testing.assert_close(jax.jit(build("convolution").apply)(params, x), want)


def test_training_asks_for_no_power_of_the_matrix():
  x = jnp.ones((1, 40, 3))
  mixer = S4(features=3, state_size=8)
  params = jax.eval_shape(mixer.init, jax.random.key(0), x)
  loss = lambda params, x: jnp.sum(mixer.apply(params, x)[0])
  program = jax.jit(jax.grad(loss)).lower(params, x).compile().as_text()
  assert "while" not in program  # Neither the state's loop nor a solution's.


def test_odd_sizes_are_refused():
  with pytest.raises(ValueError, match="even state_size .* got 5 and 1024"):
    S4(features=3, state_size=5)
