import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import layers, testing
from jaxseq.convert import laughing_hyena
from jaxseq.modules.conv import Hyena, MultiHyena, SGConv


def modal_sums(num_modes, length=60, num_filters=3):
  rng = np.random.default_rng(0)
  shape = (num_filters, num_modes)
  log_poles = -rng.uniform(0.01, 0.5, shape) + 1j * rng.uniform(0.1, 3, shape)
  residues = rng.normal(size=shape) + 1j * rng.normal(size=shape)
  modes = laughing_hyena.Modes(log_poles, residues, rng.normal(size=num_filters))
  return modes, modes.filters(length)


def implicit_filters():
  module = layers.ImplicitFilter(4, 64, width=16)
  return np.asarray(module.apply(module.init(jax.random.key(0))), np.float64)


@pytest.mark.parametrize("steps", [0, 20])
def test_a_filter_that_is_a_sum_of_modes_is_recovered(steps):
  modes, filters = modal_sums(3)
  got = laughing_hyena.fit(filters, 3, steps=steps)
  assert laughing_hyena.relative_errors(got, filters).max() < 1e-5
  by_angle = lambda m: np.take_along_axis(
    m.log_poles, np.argsort(m.log_poles.imag, axis=1), axis=1
  )
  np.testing.assert_allclose(by_angle(got), by_angle(modes), atol=1e-4)


def test_modes_that_are_not_needed_do_not_hurt_and_real_poles_take_one_each():
  filters = 0.9 ** np.arange(40.0)[:, None] + 2 * 0.5 ** np.arange(40.0)[:, None]
  for num_modes in (2, 5):
    got = laughing_hyena.fit(filters, num_modes, steps=0)
    assert laughing_hyena.relative_errors(got, filters).max() < 1e-9


def test_the_order_is_that_of_the_system():
  _, filters = modal_sums(3)
  assert laughing_hyena.order(filters, 1e-9).tolist() == [6, 6, 6]


def test_the_error_falls_with_the_modes_down_to_the_bound_by_hankel_values():
  filters = implicit_filters()
  values = laughing_hyena.hankel_singular_values(filters)
  errors = [np.full(4, np.inf)]
  for num_modes in (1, 2, 4, 8):
    modes = laughing_hyena.fit(filters, num_modes, steps=50)
    left = filters - modes.filters(64)
    errors.append(np.linalg.norm(left, axis=0))
    assert (errors[-1] < errors[-2]).all()
    # No system of that order has a smaller norm of the Hankel matrix of the rest,
    # which in turn is at most the sum of its taps' sizes.
    assert (np.abs(left).sum(axis=0) >= values[:, 2 * num_modes]).all()
  assert (errors[4] < errors[1] / 2).all()


def test_gradient_descent_lowers_the_error_of_the_realisation():
  filters = implicit_filters()
  before, after = (
    laughing_hyena.relative_errors(laughing_hyena.fit(filters, 2, steps=steps), filters)
    for steps in (0, 100)
  )
  assert (after < 0.99 * before).all()


@pytest.mark.parametrize("cls, options", [(Hyena, dict(order=3)), (MultiHyena, {})])
def test_a_distilled_layer_is_the_layer_up_to_the_error_of_its_filters(cls, options):
  T = 24
  mixer = cls(features=8, max_length=T, filter_width=16, dtype=jnp.float32, **options)
  params, x = testing.example(mixer, T)
  want, _ = jax.jit(mixer.apply)(params, x)
  error = []
  for num_modes in (2, 10):
    distilled = laughing_hyena.distill(mixer, params, num_modes, steps=50)
    got, state = jax.jit(distilled.mixer.apply)(distilled.params, x)
    error.append(np.linalg.norm(got - want) / np.linalg.norm(want))
    assert error[-1] < 5 * distilled.errors.max() + 1e-5
    empty = distilled.mixer.initial_state(2)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, empty)
  assert error[1] < error[0] / 2


def test_what_cannot_be_distilled_is_named():
  with pytest.raises(ValueError, match="a Hyena or a MultiHyena; got a SGConv"):
    laughing_hyena.distill(SGConv(features=32), {}, 4)
  with pytest.raises(ValueError, match="at least 4 taps; got 3"):
    laughing_hyena.fit(np.ones((3, 1)), 2)
