import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.ssm import LinOSS, linoss


class System(LinOSS):
  """Without what follows it."""

  @nn.compact
  def __call__(self, x):
    return self._system(x)


def run(scheme, x):
  mixer = System(features=3, state_size=5, scheme=scheme, dtype=jnp.float32)
  variables = jax.jit(mixer.init)(jax.random.key(0), x)
  out = jax.jit(mixer.apply)(variables, x)
  return out, {k: np.asarray(p.value, float) for k, p in variables["params"].items()}


@pytest.mark.parametrize("scheme", ["IM", "IMEX"])
def test_a_step_is_that_of_the_scheme(scheme):
  x = np.random.default_rng(0).normal(size=(1, 20, 3)).astype(np.float32)
  (out, last), p = run(scheme, x)
  A, dt = np.maximum(p["A"], 0), 1 / (1 + np.exp(-p["steps"]))
  B, C = (p[name][..., 0] + 1j * p[name][..., 1] for name in "BC")
  z, y = np.zeros(5, complex), np.zeros(5, complex)
  for t, u in enumerate(x[0]):
    force = B @ u
    if scheme == "IM":  # Solved for the y that both lines share.
      y_next = (y + dt * z + dt**2 * force) / (1 + dt**2 * A)
      z, y = z + dt * (force - A * y_next), y_next
    else:
      z = z + dt * (force - A * y)
      y = y + dt * z
    np.testing.assert_allclose(out[0, t], (C @ y).real + p["D"] * u, atol=1e-4)
  np.testing.assert_allclose(last[0], np.stack([z, y], axis=-1), atol=1e-4)


def test_imex_keeps_the_volume_and_im_loses_some():
  A, dt = jnp.asarray([0.0, 0.5, 3.0]), jnp.asarray([0.3, 0.9, 1.0])
  volume = lambda scheme: np.linalg.det(linoss._step(scheme, A, dt)[0])
  np.testing.assert_allclose(volume("IMEX"), 1, rtol=1e-6)
  np.testing.assert_allclose(volume("IM"), 1 / (1 + dt**2 * A), rtol=1e-6)


def test_an_unknown_scheme_is_named():
  with pytest.raises(ValueError, match="scheme in .*'IMEX'.*; got 'EX'"):
    LinOSS(features=4, scheme="EX")
