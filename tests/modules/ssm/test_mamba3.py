import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.ssm import Mamba3, MIMOMamba3


def test_it_is_a_complex_state_space_model_in_trapezoidal_steps():
  mixer = Mamba3(features=8, num_heads=2, state_size=12, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  y, _ = jax.jit(mixer.apply)(params, x)
  want = np.stack([complex_model(params["params"], row) for row in np.asarray(x)])
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def complex_model(params, x, H=2, P=8, N=12):
  """Mamba-3 without rotations: complex numbers in float64, one token after another."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  project = lambda name: x.astype(np.float64) @ p[name]["kernel"]
  softplus = lambda a: np.log1p(np.exp(a))
  sigmoid = lambda a: 1 / (1 + np.exp(-a))

  def inputs(name):
    y = project(name)[:, None]
    y = y / np.sqrt(np.mean(y**2, -1, keepdims=True) + 1e-5)
    y = y * p[f"{name}_norm"]["scale"] + p[f"{name}_bias"][:, 0]
    n = N // 4  # Pairs that turn are complex channels, the others real ones.
    return np.concatenate([y[..., :n] + 1j * y[..., n : 2 * n], y[..., 2 * n :]], -1)

  B, C = inputs("B"), inputs("C")
  u, z = (project(name).reshape(-1, H, P) for name in "xz")
  dt = softplus(project("dt") + p["dt_bias"])
  rate, mix = softplus(project("A")), sigmoid(project("mix"))
  omega = np.pi * np.tanh(project("theta"))
  omega = np.concatenate([omega, np.zeros((len(x), N // 2))], -1)
  h, write, out = 0, 0, []
  for t in range(len(x)):
    a = np.exp(-dt[t, :, None] * (rate[t, :, None] + 1j * omega[t]))[..., None]
    step = dt[t, :, None, None]
    h = a * (h + (1 - mix[t, :, None, None]) * step * write)
    write = B[t][..., None] * u[t][:, None]
    h = h + mix[t, :, None, None] * step * write
    o = np.einsum("hn,hnp->hp", C[t].conj(), h).real + p["D"][:, None] * u[t]
    out.append((o * z[t] * sigmoid(z[t])).ravel() @ p["out"]["kernel"])
  return np.stack(out)


def test_equal_inputs_and_outputs_are_one():
  sizes = dict(features=16, state_size=8, dtype=jnp.float32)
  one, many = Mamba3(**sizes), MIMOMamba3(**sizes)
  params, x = nn.unbox(testing.example(one))
  params = params["params"] | {"D": jnp.zeros(4)}
  want, _ = jax.jit(one.apply)({"params": params}, x)
  copies = {}
  for name in "BC":
    copies[name] = {"kernel": jnp.tile(params[name]["kernel"], (1, 4))}
    copies[f"{name}_bias"] = jnp.repeat(params[f"{name}_bias"], 4, axis=1)
  begin = nn.unbox(jax.jit(many.init)(jax.random.key(0), x))["params"]
  ranks = {name: begin[name] for name in ("x_ranks", "z_ranks", "out_ranks")}
  y, _ = jax.jit(many.apply)({"params": params | copies | ranks}, x)
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_angles_stay_exact_over_many_turns():
  mixer = Mamba3(features=8, num_heads=2, state_size=8, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  T = 4096
  x = jnp.broadcast_to(5 * x[:, :1], (2, T, 8))
  turn = np.asarray(jax.jit(mixer.apply)(params, x[:, :1])[1].angle, np.float64)
  angle = jax.jit(mixer.apply)(params, x)[1].angle
  error = np.asarray(angle, np.float64) - T * turn
  np.testing.assert_allclose(error - np.round(error), 0, atol=2e-6)
  assert np.abs(T * turn).max() > 10


def test_sizes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match="num_heads that divide expand x features = 64"):
    Mamba3(features=32, num_heads=5)
  with pytest.raises(ValueError, match="MIMOMamba3 needs state_size in multiples of 4"):
    MIMOMamba3(features=32, state_size=6)
