import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.ssm import DSS


class System(DSS):
  """Without what follows it."""

  @nn.compact
  def __call__(self, x):
    return self._system(x)


def system(variant, real):
  """Its impulse response, for these real parts of Lambda, and what that is made of."""
  options = dict(kernel_length=12, dt_min=0.1, dt_max=0.3)
  mixer = System(features=2, state_size=4, variant=variant, **options)
  impulse = jnp.zeros((1, 12, 2)).at[0, 0].set(1)
  variables = jax.jit(mixer.init)(jax.random.key(0), impulse)
  params = {name: p.value for name, p in variables["params"].items()}
  params["D"] = jnp.zeros(2)
  if variant == "exp":
    params["log_decay"] = jnp.log(-real)
  else:
    params["lambda_real"] = real
  run = jax.jit(lambda p: mixer.apply({"params": p}, impulse)[0][0])
  p = {k: np.asarray(v, float) for k, v in params.items()}
  z = (np.asarray(real) + 1j * p["lambda_imaginary"]) * np.exp(p["log_dt"])[:, None]
  C = p["C"][..., 0] + 1j * p["C"][..., 1]
  powers = np.exp(z[..., None] * np.arange(12))  # [D, N, L]
  return run(params), z, C, powers, np.asarray(real) + 1j * p["lambda_imaginary"]


def test_the_kernel_of_dss_exp_is_the_papers():
  y, z, C, powers, values = system("exp", -jnp.asarray([0.5, 0.1, 1, 2]))
  want = np.einsum("dn,dnl->ld", C * np.expm1(z) / values, powers).real
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_the_kernel_of_dss_softmax_is_normalised_over_time():
  y, z, C, powers, values = system("softmax", jnp.asarray([-0.5, 3.0, -1.0, 0.2]))
  softmax = powers / powers.sum(axis=2, keepdims=True)
  want = np.einsum("dn,dnl->ld", C / values, softmax).real
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_an_unknown_variant_is_named():
  with pytest.raises(ValueError, match="variant in .*'softmax'.*; got 'max'"):
    DSS(features=4, variant="max")
