import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.rnn import Elman


def test_its_recurrence_begins_orthogonal_in_each_head():
  mixer = Elman(features=12, num_heads=3, dtype=jnp.float32)
  params = jax.jit(mixer.init)(jax.random.key(0), jnp.ones((1, 2, 12)))
  R = params["params"]["recurrent"].value[:, 0]
  np.testing.assert_allclose(
    np.einsum("hij,hkj->hik", R, R), np.tile(np.eye(4), (3, 1, 1)), atol=1e-6
  )


def test_with_relu_no_output_is_negative():
  mixer = Elman(features=32, num_heads=2, activation="relu", dtype=jnp.float32)
  y, _ = jax.jit(mixer.apply)(*testing.example(mixer))
  assert y.min() == 0 and y.max() > 0.1


def test_what_does_not_fit_is_named():
  with pytest.raises(ValueError, match="Elman needs num_heads .* = 32; got 5"):
    Elman(features=32, num_heads=5)
  with pytest.raises(ValueError, match="Elman needs activation in .* got 'gelu'"):
    Elman(features=32, activation="gelu")
