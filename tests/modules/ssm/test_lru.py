import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.ssm import LRU

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


class System(LRU):
  """Without what follows it."""

  @nn.compact
  def __call__(self, x):
    return self._system(x)


def test_its_recurrence_is_that_of_lru_pytorch():
  oracle = {k: jnp.asarray(v) for k, v in np.load(ORACLES / "lru.npz").items()}
  pair = lambda z: jnp.stack([z.real, z.imag], axis=-1)
  params = dict(
    nu=oracle["nu_log"],
    theta=oracle["theta_log"],
    log_gamma=oracle["gamma_log"],
    B=pair(oracle["B"]),
    C=jnp.pad(pair(oracle["C"]), ((0, 1), (0, 0), (0, 0))),  # It has one output less.
    D=jnp.zeros(6),
  )
  mixer = System(features=6, state_size=7, dtype=jnp.float32)
  y, _ = mixer.apply({"params": params}, oracle["x"])
  skip = oracle["x"] @ oracle["D"].T  # Its D is a matrix, the paper's a vector.
  np.testing.assert_allclose(y[..., :5] + skip, oracle["y"], atol=1e-5)


def test_it_begins_on_a_ring_with_inputs_balanced():
  mixer = LRU(features=4, state_size=500, r_min=0.5, r_max=0.9, max_phase=0.3)
  params = jax.jit(mixer.init)(jax.random.key(0), jnp.ones((1, 2, 4)))["params"]
  modulus = jnp.exp(-jnp.exp(params["nu"].value))
  phase = jnp.exp(params["theta"].value)
  assert 0.5 < modulus.min() < 0.52 and 0.88 < modulus.max() < 0.9
  assert abs(jnp.mean(modulus**2) - (0.25 + 0.81) / 2) < 0.03  # Uniform by area.
  assert 0 < phase.min() < 0.01 and 0.29 < phase.max() < 0.3
  gamma = jnp.exp(params["log_gamma"].value)
  np.testing.assert_allclose(gamma**2 + modulus**2, 1, rtol=1e-5)


def test_a_ring_that_is_none_is_refused():
  with pytest.raises(ValueError, match="r_min < r_max <= 1; got 0.9 and 0.5"):
    LRU(features=4, r_min=0.9, r_max=0.5)
