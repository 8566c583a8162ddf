import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxseq import testing
from jaxseq.modules.conv import CausalHorNet
from jaxseq.modules.grid import HorNet

GRID = (3, 4)
T, D = 12, 16
WIDTHS = (4, 8, 16)


def example(cls, **attributes):
  mixer = cls(features=D, order=3, dtype=jnp.float32, **attributes)
  x = jax.random.normal(jax.random.key(0), (2, T, D))
  params = nn.unbox(jax.jit(mixer.init)(jax.random.key(1), x))
  noise = lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape)
  return mixer, jax.tree.map(noise, params), x


def equation(params, x, convolve):
  """The recursion in numpy; `convolve` maps all q."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
  linear = lambda y, name: y @ p[name]["kernel"] + p[name]["bias"]
  q = np.split(convolve(p, linear(np.asarray(x), "q")), np.cumsum(WIDTHS)[:-1], axis=-1)
  y = linear(np.asarray(x), "p")
  for k in range(3):
    y = (linear(y, f"g_{k}") if k else y) * q[k] / 3
  return linear(y, "out")


def images(x, kernel):
  """Each channel's correlation with a 2-D kernel, by scipy."""
  x = x.reshape(2, *GRID, -1)
  y = np.zeros(x.shape)
  for b, c in np.ndindex(2, x.shape[-1]):
    y[b, :, :, c] = scipy.signal.correlate2d(x[b, :, :, c], kernel[..., 0, c], "same")
  return y.reshape(2, T, -1)


def norm(x, p):
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * p["scale"] + p["bias"]


def local(p, q):
  return images(q, p["conv"]["kernel"]) + p["conv"]["bias"]


def whole(p, q):
  """The global filter, with the whole spectrum."""
  q = norm(q, p["pre_norm"])
  near = images(q[..., :14], p["conv"]["kernel"])
  spectrum = np.fft.rfft2(q[..., 14:].reshape(2, *GRID, 14), axes=(1, 2), norm="ortho")
  weight = p["filter_weight"] @ np.array([1, 1j])
  far = np.fft.irfft2(spectrum * weight, GRID, axes=(1, 2), norm="ortho")
  both = np.zeros(q.shape)
  both[..., ::2], both[..., 1::2] = near, far.reshape(2, T, 14)
  return norm(both, p["post_norm"])


def causal(p, q):
  padded = np.pad(q, ((0, 0), (6, 0), (0, 0)))
  taps = range(7)
  return sum(p["conv"][w] * padded[:, w : w + T] for w in taps) + p["conv_bias"]


CASES = {
  "local": (HorNet, dict(grid=GRID), local),
  "global": (HorNet, dict(grid=GRID, filter="global"), whole),
  "causal": (CausalHorNet, dict(), causal),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_equation_of_the_paper(case):
  cls, attributes, convolve = CASES[case]
  mixer, params, x = example(cls, **attributes)
  y, _ = jax.jit(mixer.apply)(params, x)
  testing.assert_close(y, equation(params, x, convolve))


def test_padding_around_an_image_is_not_seen():
  mixer, params, x = example(HorNet, grid=GRID, kernel_size=3)
  row, column = np.indices(GRID).reshape(2, T)
  ids = ((row < 2) & (column < 3)).astype(np.int32)
  x = jnp.where(ids[:, None] == 0, jnp.nan, x)
  got, _ = jax.jit(mixer.apply)(params, x, segment_ids=jnp.stack([ids, ids]))
  want, _ = jax.jit(mixer.clone(grid=(2, 3)).apply)(params, x[:, ids == 1])
  testing.assert_close(got[:, ids == 1], want)


def test_what_does_not_fit_is_named():
  mixer, params, x = example(HorNet, grid=GRID, filter="global")
  with pytest.raises(ValueError, match="segment_ids"):
    mixer.apply(params, x, segment_ids=jnp.ones((2, T), jnp.int32))
  for message, change in (
    ("2.*divides features = 16; got 6", dict(order=6)),
    ("filter in", dict(filter="fourier")),
    ("odd kernel_size", dict(kernel_size=4)),
    ("a grid", dict(filter="global")),
    ("even for a global filter", dict(filter="global", grid=GRID, order=5)),
  ):
    with pytest.raises(ValueError, match=f"HorNet needs .*{message}"):
      HorNet(features=16, **change)
