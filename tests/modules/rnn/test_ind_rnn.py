import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.rnn import IndRNN


def test_it_is_its_equation_in_float64():
  mixer = IndRNN(features=8, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  W, b, u = map(
    np.float64,
    jax.tree.leaves((params["params"]["input"]["kernel"],))
    + [params["params"]["input"]["bias"], params["params"]["recurrent"]],
  )
  h, want = np.zeros((2, 8)), []
  for t in range(x.shape[1]):
    h = np.maximum(x[:, t] @ W + b + np.clip(u, -1.0007, 1.0007) * h, 0)
    want.append(h)
  y, last = jax.jit(mixer.apply)(params, x)
  np.testing.assert_allclose(y, np.stack(want, 1), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(last, h, rtol=1e-5, atol=1e-5)


def test_no_gradient_more_than_doubles_over_the_horizon():
  mixer = IndRNN(features=8, horizon=20, dtype=jnp.float32)
  x = jnp.ones((1, 20, 8))
  params = nn.unbox(jax.jit(mixer.init)(jax.random.key(0), x))["params"]
  u = params["recurrent"]
  assert 0 <= u.min() and u.max() <= 2 ** (1 / 20)
  params = params | {"recurrent": 3 * jnp.ones(8)}
  params["input"] = {"kernel": jnp.eye(8), "bias": jnp.ones(8)}
  last = lambda state: jnp.sum(mixer.apply({"params": params}, x, state)[1])
  np.testing.assert_allclose(jax.jit(jax.grad(last))(jnp.ones((1, 8))), 2, rtol=1e-5)
