import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.ops import fourier


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_it_is_the_sum_over_taps_and_so_are_its_gradients(kind):
  rng = np.random.default_rng(0)

  def normal(*shape):
    x = rng.normal(size=shape)
    return x + 1j * rng.normal(size=shape) if kind == "complex" else x

  def direct(x, kernel):
    lag = np.arange(9)[:, None] - np.arange(9)
    taps = jnp.where(((lag >= 0) & (lag < 7))[..., None, None], kernel[lag % 7], 0)
    return jnp.einsum("tsnm,bsnk->btnm", taps, x)

  with jax.enable_x64():
    x, kernel = normal(2, 9, 3, 1), normal(7, 3, 2)
    y, pullback = jax.vjp(fourier.causal, x, kernel)
    want, wanted = jax.vjp(direct, x, kernel)
    cotangent = normal(*y.shape)
    got = (y, *pullback(cotangent))
    for a, b in zip(got, (want, *wanted(cotangent))):
      np.testing.assert_allclose(a, b, atol=1e-12)


def test_no_two_transforms_of_a_training_step_run_side_by_side():
  grad = jax.grad(lambda x, k: jnp.sum(fourier.causal(x, k) ** 2), argnums=(0, 1))
  program = jax.jit(grad).lower(jnp.ones((2, 9, 3)), jnp.ones((9, 3))).as_text()
  assert program.count("stablehlo.fft ") == 4  # Forward, back, and again both.
