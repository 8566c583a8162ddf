import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import layers
from jaxseq.modules.conv import Hyena


def convolve(kernel, x, skip=0):
  """[L, D] with [T, D], causal."""
  T = len(x)
  y = [np.convolve(k, u)[:T] for k, u in zip(kernel.T, x.T)]
  return np.stack(y, axis=1) + skip * x


def test_it_is_gates_and_convolutions_by_turns():
  T, D, L = 9, 4, 6
  mixer = Hyena(features=D, order=3, max_length=L, filter_width=8, dtype=jnp.float32)
  x = np.random.default_rng(0).normal(size=(1, T, D)).astype(np.float32)
  params = nn.unbox(jax.jit(mixer.init)(jax.random.key(0), x))
  y, _ = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(np.float64, params["params"])
  h = layers.ImplicitFilter(2 * D, L, width=8).apply({"params": p["filter"]})
  u = x[0] @ p["in"]["kernel"] + p["in"]["bias"]
  u = convolve(p["conv"][::-1], u) + p["conv_bias"]
  x_1, x_2, x_3, v = np.split(u, 4, axis=1)
  z = x_2 * convolve(np.asarray(h)[:, :D], x_3 * v, p["skip"][:D])
  z = x_1 * convolve(np.asarray(h)[:, D:], z, p["skip"][D:])
  want = z @ p["out"]["kernel"] + p["out"]["bias"]
  np.testing.assert_allclose(y[0], want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_filters_are_the_networks_output_under_decaying_windows():
  L, N = 11, 3
  module = layers.ImplicitFilter(N, L, width=5, num_hidden=1)
  params = nn.unbox(module.init(jax.random.key(0)))
  h = module.apply(params)
  p = jax.tree.map(np.float64, params["params"])
  t = np.arange(L)[:, None]
  angle = 2 * np.pi * t / L * np.array([1e-4, 1])
  z = np.concatenate([t / (L - 1), np.cos(angle), -np.sin(angle)], axis=1)
  for name in ("hidden_0", "hidden_1"):
    z = np.sin(p["frequency"] * (z @ p[name] + p[f"{name}_bias"]))
  rates = np.linspace(1 / 1.5, 1 / 0.3, N)  # The first channel fades most slowly.
  want = 0.01 ** (t / (L - 1) * rates) * (z @ p["out"])
  np.testing.assert_allclose(h, want, rtol=1e-4, atol=1e-5)


def test_an_order_below_two_is_refused():
  with pytest.raises(ValueError, match="order >= 2; got 1"):
    Hyena(features=32, order=1)
