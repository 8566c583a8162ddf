import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.linear import Rodimus

MIXER = Rodimus(features=32, dtype=jnp.float32)


def test_it_is_the_recurrence_of_the_paper():
  mixer = Rodimus(features=8, state_size=6, dtype=jnp.float32)
  params, x = testing.example(mixer)
  got, state = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(np.float64, nn.unbox(params)["params"])
  x = np.float64(x)
  sigmoid = lambda y: 1 / (1 + np.exp(-y))
  linear = lambda y, name: y @ p[name]["kernel"] + p[name].get("bias", 0)
  up, z = linear(x, "up"), linear(x, "gate")
  padded = np.pad(up, ((0, 0), (3, 0), (0, 0)))
  c = sum(padded[:, w : w + x.shape[1]] * p["conv"][w] for w in range(4))
  c += p["conv_bias"]
  c *= sigmoid(c)
  g, tau = np.log1p(np.exp(linear(c, "write"))), sigmoid(linear(c, "tau"))
  k = linear(c, "k")
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  u = sigmoid(linear(linear(up, "value_gate_down"), "value_gate_up")) * up
  S, o = np.zeros((2, 6, 16)), []
  for t in range(x.shape[1]):
    S = np.exp(-g * tau)[:, t, :, None] * S
    S += (g**tau * k)[:, t, :, None] * u[:, t, None]
    o.append(np.einsum("bk,bkv->bv", linear(c, "q")[:, t] / 6**0.5, S))
  o = (np.stack(o, axis=1) + p["skip"] * c) * z * sigmoid(z)
  o /= np.sqrt(np.mean(o**2, axis=-1, keepdims=True) + 1e-5)
  want = linear(o * p["norm"]["scale"], "out")
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(state.memory[:, 0], S, rtol=1e-3, atol=1e-4)


def test_a_token_that_is_not_written_has_finite_gradients():
  params, x = testing.example(MIXER)
  params = nn.unbox(params)
  bias = params["params"]["write"]["bias"]
  params["params"]["write"]["bias"] = jnp.full_like(bias, -200.0)
  grads = jax.jit(jax.grad(lambda p: jnp.sum(MIXER.apply(p, x)[0] ** 2)))(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  _, state = jax.jit(MIXER.apply)(params, x)
  assert np.isfinite(state.memory).all()
