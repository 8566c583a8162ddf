import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import ops, testing

keys = jax.random.split(jax.random.key(0), 2)
GATES = jax.random.normal(keys[0], (2, 11, 2, 4, 3))
R = jax.random.normal(keys[1], (2, 4, 3, 3))


def test_the_scale_of_the_input_gates_does_not_matter():
  want, last = ops.slstm(GATES, R)
  for shift in (-100.0, 100.0):
    h, state = ops.slstm(GATES.at[:, :, :, 0].add(shift), R)
    testing.assert_close(h, want)
    testing.assert_close(state._replace(m=state.m - shift), last)


def test_one_token_is_its_candidate():
  _, _, z, o = jnp.moveaxis(GATES[:, :1], 3, 0)
  h, state = ops.slstm(GATES[:, :1], R)
  np.testing.assert_allclose(h, jax.nn.sigmoid(o) * jnp.tanh(z), rtol=1e-6)
  np.testing.assert_array_equal(state.n, 1)


def test_a_token_of_a_large_input_gate_overwrites_all_before():
  gates = GATES.at[:, 6, :, 0].set(100.0)
  h, state = ops.slstm(gates, jnp.zeros_like(R))
  _, alone = ops.slstm(gates[:, 6:], jnp.zeros_like(R))
  testing.assert_close(state, alone)
