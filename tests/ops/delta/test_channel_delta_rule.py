import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import ops


def draw(T, K=5, V=3):
  rng = np.random.default_rng(0)
  q, k, erase = rng.normal(size=(3, 2, T, 2, K))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  v, state = rng.normal(size=(2, T, 2, V)), rng.normal(size=(2, 2, K, V))
  log_decay, beta = -rng.exponential(size=(2, T, 2)), rng.uniform(0, 2, (2, T, 2))
  return [jnp.asarray(x, jnp.float32) for x in (q, k, v, log_decay, beta, state, erase)]


def assert_same(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), got, want)


def test_with_one_decay_for_all_channels_it_is_the_gated_delta_rule():
  q, k, v, g, beta, state, _ = draw(37)
  want = ops.gated_delta_rule(q, k, v, g, beta, initial_state=state)
  g = jnp.broadcast_to(g[..., None], k.shape)
  got = ops.channel_delta_rule(q, k, v, g, beta, initial_state=state)
  assert_same(got, want)


def test_without_replacement_it_is_the_diagonal_decay():
  q, k, v, _, _, state, g = draw(37)
  g, none, all_ = -jnp.abs(g), jnp.zeros_like(k), jnp.ones_like(v)
  want = ops.diagonal_decay(q, k, v, g, initial_state=state)
  got = ops.decoupled_delta_rule(q, k, v, g, none, all_, initial_state=state)
  assert_same(got, want)


def test_with_gates_of_one_number_the_decoupled_rule_is_the_channel_delta_rule():
  q, k, v, _, beta, state, g = draw(37)
  g, rows = -jnp.abs(g), beta[..., None]
  want = ops.channel_delta_rule(q, k, v, g, beta, initial_state=state)
  erase, write = jnp.broadcast_to(rows, k.shape), jnp.broadcast_to(rows, v.shape)
  got = ops.decoupled_delta_rule(q, k, v, g, erase, write, initial_state=state)
  assert_same(got, want)
