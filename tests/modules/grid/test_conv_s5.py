import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxseq import testing
from jaxseq.modules.grid import ConvS5

T, GRID, C = 7, (4, 2), 4


def convolve(x, kernel):
  """Frames [B, T, h, w, I] with a kernel [k, k, I, O], by scipy."""
  out = np.zeros((*x.shape[:-1], kernel.shape[-1]), np.result_type(x, kernel))
  for b, t, i, o in np.ndindex(*x.shape[:2], *kernel.shape[2:]):
    flipped = kernel[::-1, ::-1, i, o]  # What networks call a convolution.
    out[b, t, :, :, o] += signal.convolve2d(x[b, t, :, :, i], flipped, "same")
  return out


def test_it_is_its_equation():
  mixer = ConvS5(features=32, grid=GRID, state_size=6, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer, T))
  got, last = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
  U = np.asarray(x, np.float64).reshape(2, T, *GRID, C)
  eigenvalues = np.minimum(p["lambda_real"], -1e-4) + 1j * p["lambda_imaginary"]
  dt, half = np.exp(p["log_dt"]), lambda y: (y[..., :3], y[..., 3:])
  a = np.exp(eigenvalues * dt)
  real, imaginary = half(p["B"])
  driven = (a - 1) / eigenvalues * convolve(U, real + 1j * imaginary)
  X = np.zeros((2, *GRID, 3), complex)
  states = []
  for t in range(T):
    X = a * X + driven[:, t]
    states.append(X)
  kernel = p["C"][:, :, :3] + 1j * p["C"][:, :, 3:]
  Y = 2 * convolve(np.stack(states, axis=1), kernel).real
  Y += convolve(U, p["D"]) + p["D_bias"]
  # Four channels are one group.
  mean, var = (f(Y, axis=(2, 3, 4), keepdims=True) for f in (np.mean, np.var))
  Y = (Y - mean) / np.sqrt(var + 1e-6) * p["norm"]["scale"] + p["norm"]["bias"]
  want = np.asarray(nn.gelu(jnp.asarray(Y, jnp.float32))).reshape(x.shape)
  testing.assert_close(got, want)
  testing.assert_close(last, X.reshape(2, -1))


def test_a_disturbance_spreads_over_the_frame_but_not_backwards_in_time():
  """One pixel away by B, one by C, and no further: the states are pixels' own."""
  mixer = ConvS5(features=32, grid=(8, 1), state_size=6, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer, T))
  run = jax.jit(
    lambda x: mixer.apply(
      params,
      x,
      mutable=True,
      capture_intermediates=lambda module, name: name == "_system",
    )[1]["intermediates"]["_system"][0][0]
  )
  changed = x.at[:, 2, :C].add(1.0)
  moved = np.abs(run(changed) - run(x)).max((0, 3, 4)) > 1e-6
  want = np.zeros((T, 8), bool)
  want[2:, :3] = True
  np.testing.assert_array_equal(moved, want)


def test_the_channels_of_its_kernels_begin_as_those_of_a_real_system():
  mixer = ConvS5(features=64, grid=(2, 2), state_size=32, dtype=jnp.float32)
  params = nn.unbox(mixer.init(jax.random.key(0), jnp.zeros((1, 2, 64))))["params"]
  for name, axis, fan in (("B", 3, 9 * 16), ("C", 2, 9 * 32)):
    real, imaginary = np.split(np.asarray(params[name]), 2, axis=axis)
    # Half of the variance 2 / fan of He's normal is in each of two conjugate states.
    power = np.mean(real**2 + imaginary**2)
    np.testing.assert_allclose(power, 2 / fan, rtol=0.1)


def test_what_does_not_fit_is_named():
  with pytest.raises(ValueError, match="divides features = 32; got 3 x 4"):
    ConvS5(features=32, grid=(3, 4))
  with pytest.raises(ValueError, match="num_blocks that divide state_size / 2 = 3"):
    ConvS5(features=32, state_size=6, num_blocks=2)
  with pytest.raises(ValueError, match="odd kernel_size; got 2"):
    ConvS5(features=32, kernel_size=2)
