import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import LogLinearMamba2
from jaxseq.modules.ssm import Mamba2


def test_with_level_scales_of_one_it_is_mamba2():
  mixer = LogLinearMamba2(features=32, state_size=8, dtype=jnp.float32)
  params, x = testing.example(mixer)
  params = params["params"]
  x = x.at[..., 0].set(1)  # So that the scales can be softplus(log(e - 1)) = 1.
  kernel = jnp.zeros((32, 4 * 15)).at[0].set(1)
  ones = {"level_scales": {"kernel": kernel}}
  gains = {"level_gains": jnp.full((4, 15), jnp.log(jnp.e - 1))}
  y, _ = jax.jit(mixer.apply)({"params": {**params, **ones, **gains}}, x)
  base = {k: v for k, v in params.items() if not k.startswith("level")}
  plain = Mamba2(features=32, state_size=8, dtype=jnp.float32)
  want, _ = jax.jit(plain.apply)({"params": base}, x)
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_it_has_no_negative_eigenvalues():
  with pytest.raises(ValueError, match="negative_eigenvalues = False"):
    LogLinearMamba2(features=32, negative_eigenvalues=True)
