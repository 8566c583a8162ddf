import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.conv import H3


@pytest.mark.parametrize("K", [1, 2])
def test_it_is_two_state_spaces_and_two_products(K):
  T, D, N = 9, 4, 6
  mixer = H3(features=D, state_size=N, head_size=K, dt_min=0.1, dtype=jnp.float32)
  x = np.random.default_rng(0).normal(size=(1, T, D)).astype(np.float32)
  params = nn.unbox(jax.jit(mixer.init)(jax.random.key(0), x))
  y, _ = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(np.float64, params["params"])
  linear = lambda name, z: z @ p[name]["kernel"] + p[name]["bias"]
  q, k, v = (linear(name, x[0]) for name in "qkv")
  A = -np.exp(p["log_rate"]) + 1j * p["frequency"]
  dt = np.exp(p["log_dt"])[:, None]
  a, b = (1 + A * dt / 2) / (1 - A * dt / 2), dt / (1 - A * dt / 2)
  C = p["C"][..., 0] + 1j * p["C"][..., 1]
  shift = np.zeros((N, D))  # The last keys, the newest first.
  s = np.zeros((D // K, K, K, N // 2), complex)
  out = np.zeros((T, D))
  for t in range(T):
    shift = np.concatenate([k[t : t + 1], shift[:-1]])
    key = np.sum(p["shift"] * shift, axis=0) + p["shift_skip"] * k[t]
    z = key.reshape(-1, K, 1) * v[t].reshape(-1, 1, K)
    s = a[:, None, None] * s + b[:, None, None] * z[..., None]
    o = 2 * np.sum(C[:, None, None] * s, axis=-1).real
    o += p["skip"][:, None, None] * z
    out[t] = np.sum(q[t].reshape(-1, K, 1) * o, axis=1).reshape(D)
  want = linear("out", out)
  np.testing.assert_allclose(y[0], want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_sizes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match="divides features = 32 and an even"):
    H3(features=32, head_size=5)
