import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.conv import HE, ME, SHE, WE

T, D, L = 9, 6, 4

# The matrix of a token so far back, and the number of parameters.
CASES = {
  SHE: (lambda p, lag: p["weights"][lag], L * D**2 + D**2),
  HE: (lambda p, lag: p["values"]["kernel"] * p["weights"][lag], L * D + 2 * D**2),
  WE: (lambda p, lag: p["values"]["kernel"] * p["weights"][lag], L + 2 * D**2),
  ME: (lambda p, lag: np.eye(D) * p["weights"][lag], L + D**2),
}


@pytest.mark.parametrize("cls", CASES)
def test_it_is_the_equation(cls):
  matrix, count = CASES[cls]
  mixer = cls(features=D, context=L, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer, length=T))
  y, _ = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
  assert sum(a.size for a in jax.tree.leaves(p)) == count
  want = np.zeros(x.shape)
  for t in range(T):
    n = min(t + 1, L)
    e = sum(np.asarray(x)[:, t - lag] @ matrix(p, lag) for lag in range(n))
    want[:, t] = e / n**0.5 * (np.asarray(x)[:, t] @ p["adjust"]["kernel"])
  testing.assert_close(y, want.astype(np.float32))


def test_a_context_of_no_token_is_named():
  with pytest.raises(ValueError, match="HE needs context >= 1; got 0"):
    HE(features=8, context=0)
