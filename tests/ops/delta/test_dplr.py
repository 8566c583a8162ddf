import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "fla_iplr.npz"


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
def test_iplr_gives_the_numbers_of_flash_linear_attention(form):
  oracle = np.load(ORACLE)  # [B, H, T, K]; there alpha reads and beta writes.
  heads = lambda name: jnp.asarray(oracle[name]).swapaxes(1, 2)
  o, state = ops.iplr(
    *(heads(name) for name in ("q", "k", "v", "beta", "alpha")),
    initial_state=jnp.asarray(oracle["h0"]),
    implementation=form,
  )
  np.testing.assert_allclose(o, heads("o"), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(state, oracle["final_state"], rtol=1e-5, atol=1e-5)


@functools.cache
def draw(T=67, K=5, V=3):
  rng = np.random.default_rng(0)
  q, k, g = rng.normal(size=(3, 2, T, 2, K))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  v, state = rng.normal(size=(2, T, 2, V)), rng.normal(size=(2, 2, K, V))
  g, beta = np.where(g > 1, -200.0, -np.abs(g)), rng.uniform(0, 2, (2, T, 2))
  return [jnp.asarray(x, jnp.float32) for x in (q, k, v, g, beta, state)]


def assert_same(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), got, want)


def test_the_channel_delta_rule_is_one_of_its_kind():
  q, k, v, g, beta, state = draw()
  want = ops.channel_delta_rule(q, k, v, g, beta, initial_state=state)
  write = beta[..., None] * k
  got = ops.dplr(q, write, v, -write, jnp.exp(g) * k, g, initial_state=state)
  assert_same(got, want)


def test_so_is_the_scalar_plus_low_rank_rule():
  q, k, v, g, beta, state = draw()
  g, p = g[..., 0], 0.7 * k
  want = ops.splr(q, k, v, p, g, beta, initial_state=state)
  write = beta[..., None] * k
  decay = jnp.broadcast_to(g[..., None], k.shape)
  got = ops.dplr(q, write, v, -write, p, decay, initial_state=state)
  assert_same(got, want)


def test_without_decays_the_scalar_plus_low_rank_rule_is_the_delta_rule():
  q, k, v, g, beta, state = draw()
  none = jnp.zeros_like(beta)
  want = ops.gated_delta_rule(q, k, v, none, beta, initial_state=state)
  assert_same(ops.splr(q, k, v, k, none, beta, initial_state=state), want)


def test_swaps_of_two_rows_track_a_permutation():
  """RWKV-7's example: I - (e_i - e_j)(e_i - e_j)^T swaps two rows of the state."""
  T, K = 45, 5
  rng = np.random.default_rng(0)
  pairs = np.stack([rng.choice(K, 2, replace=False) for _ in range(T)])
  order = np.arange(K)
  for i, j in pairs:
    order[[i, j]] = order[[j, i]]
  a = (np.eye(K)[pairs[:, 0]] - np.eye(K)[pairs[:, 1]])[None, :, None].astype(
    np.float32
  )
  none = jnp.zeros_like(a)
  _, state = ops.iplr(none, none, none, -a, a, initial_state=jnp.eye(K)[None, None])
  np.testing.assert_allclose(state[0, 0], np.eye(K)[order], atol=1e-5)
