import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.ssm import Hydra

silu = lambda x: x / (1 + np.exp(-x))
softplus = lambda x: np.logaddexp(x, 0)


def convolved(x, weight, bias):
  """Seven taps around each token, zeros beyond the ends."""
  T = len(x)
  x = np.pad(x, ((3, 3), (0, 0)))
  return silu(sum(w * x[n : n + T] for n, w in enumerate(weight)) + bias)


def layer(p, x, H, G, N):
  """The layer of one sequence [T, D], its matrix built entry by entry in float64."""
  T, width = len(x), p["x"]["kernel"].shape[1]
  u = convolved(x @ p["x"]["kernel"], p["x_conv"], p["x_conv_bias"])
  BC = convolved(x @ p["BC"]["kernel"], p["BC_conv"], p["BC_conv_bias"])
  BC = BC.reshape(T, 2, 2, G, N)
  dt = softplus((x @ p["dt"]["kernel"]).reshape(T, 2, H) + p["dt_bias"])
  own = u @ p["D_input"]["kernel"] + p["D"]
  o = np.zeros((T, H, width // H))
  for h in range(H):
    A, g = -np.exp(p["A_log"][h]), h // (H // G)
    for i, j in np.ndindex(T, T):
      weight = own[i, h]
      if i != j:
        n, reader = (0, i - 1) if j < i else (1, i + 1)
        between = dt[j + 1 : i, 0, h] if n == 0 else dt[i + 1 : j, 1, h]
        B, C = BC[j, n, 0, g], BC[reader, n, 1, g]
        weight = C @ B * dt[j, n, h] * np.exp(A * between.sum())
      o[i, h] += weight * u[j].reshape(H, -1)[h]
  o = o.reshape(T, width)
  o /= np.sqrt(np.mean(o**2, axis=1, keepdims=True) + 1e-5)
  o *= p["norm"]["scale"] * silu(x @ p["z"]["kernel"])
  return o @ p["out"]["kernel"]


def test_it_is_the_published_layer():
  mixer = Hydra(features=32, state_size=5, num_groups=2, dtype=jnp.float32)
  params, x = testing.example(mixer)
  y, _ = jax.jit(mixer.apply)(params, x)
  wide = lambda a: np.asarray(a, np.float64)
  p = jax.tree.map(wide, nn.unbox(params)["params"])
  testing.assert_close(y, np.stack([layer(p, wide(row), 4, 2, 5) for row in x]))


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="num_heads that divide expand x features = 64"):
    Hydra(features=32, num_heads=5)
