import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.ssm import S4D
from jaxseq.ops.ssm import hippo

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


class System(S4D):
  """Without what follows it."""

  @nn.compact
  def __call__(self, x):
    return self._system(x)


def test_its_system_is_that_of_discretax():
  oracle = {k: jnp.asarray(v) for k, v in np.load(ORACLES / "dx_s4d.npz").items()}
  C = oracle["kernel.C"]
  params = dict(
    log_dt=oracle["kernel.log_dt"],
    log_decay=oracle["kernel.log_a_real"],
    frequency=oracle["kernel.A_imag"],
    B=jnp.stack([jnp.ones((6, 4)), jnp.zeros((6, 4))], axis=-1),
    C=jnp.stack([C.real, C.imag], axis=-1),
    D=jnp.zeros(6),
  )
  mixer = System(features=6, state_size=8, dtype=jnp.float32)
  run = lambda x: mixer.apply({"params": params}, x)[0]
  y, pullback = jax.vjp(jax.jit(run), oracle["x"][None])
  np.testing.assert_allclose(y[0], oracle["y"], atol=1e-5)
  (grad_x,) = pullback(oracle["cot_y"][None])
  np.testing.assert_allclose(grad_x[0], oracle["grad_x"], atol=1e-5)


@pytest.mark.parametrize("spectrum", ["legs", "inv", "lin"])
def test_it_begins_with_the_spectra_of_the_paper(spectrum):
  mixer = S4D(features=3, state_size=8, spectrum=spectrum)
  params = jax.jit(mixer.init)(jax.random.key(0), jnp.ones((1, 2, 3)))["params"]
  np.testing.assert_allclose(jnp.exp(params["log_decay"].value), 0.5, rtol=1e-6)
  want = dict(
    legs=hippo.normal_legs_eigenvectors(8)[0][:4].imag,
    inv=[8 / np.pi * 7, 8 / np.pi * 5 / 3, 8 / np.pi * 3 / 5, 8 / np.pi / 7],
    lin=[0, np.pi, 2 * np.pi, 3 * np.pi],
  )
  for row in params["frequency"].value:
    np.testing.assert_allclose(row, want[spectrum], rtol=1e-6)


def test_both_discretizations_tend_to_the_same_system():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 4)), jnp.float32)
  out = []
  for rule in ("zero_order_hold", "bilinear"):
    mixer = System(features=4, discretization=rule, dt_min=1e-5, dt_max=1e-4)
    params = jax.jit(mixer.init)(jax.random.key(0), x)
    out.append(jax.jit(mixer.apply)(params, x)[0])
  np.testing.assert_allclose(*out, rtol=1e-4, atol=1e-5)


def test_wrong_options_are_named():
  for options, words in (
    (dict(spectrum="fourier"), "spectrum in .*'legs'.*; got 'fourier'"),
    (dict(discretization="zoh"), "discretization in .*; got 'zoh'"),
    (dict(state_size=5), "even state_size; got 5"),
  ):
    with pytest.raises(ValueError, match=words):
      S4D(features=4, **options)
