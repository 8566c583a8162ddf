import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

jitted = jax.jit(ops.token_shift)


def test_each_token_gets_its_predecessor():
  x = jax.random.normal(jax.random.key(0), (2, 7, 3))
  state = jnp.full((2, 3), 5.0)
  before, last = jitted(x, state)
  np.testing.assert_array_equal(before[:, 0], state)
  np.testing.assert_array_equal(before[:, 1:], x[:, :-1])
  np.testing.assert_array_equal(last, x[:, -1])


def test_documents_begin_with_zeros_and_padding_is_passed_over():
  x = jnp.arange(1.0, 8)[None, :, None].at[0, 0].set(jnp.nan)
  ids = jnp.array([[0, 1, 1, 0, 2, 2, 0]])
  before, last = jitted(x, jnp.full((1, 1), 9.0), ids)
  np.testing.assert_array_equal(before[0, :, 0], [0, 9, 2, 0, 0, 5, 0])
  np.testing.assert_array_equal(last, [[6]])


def test_a_state_that_does_not_fit_is_named():
  with pytest.raises(ValueError, match="token_shift needs initial_state"):
    jitted(jnp.zeros((2, 7, 3)), jnp.zeros((2, 1, 3)))
