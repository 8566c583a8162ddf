import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "fla_gated_delta_product.npz"
NAMES = ("q", "k", "v", "g", "beta", "h0")


def steps(x, n=2):
  return x.reshape(x.shape[0], -1, n, *x.shape[2:])


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_it_is_that_of_flash_linear_attention_with_its_gradients(form):
  oracle = np.load(ORACLE)
  arrays = {name: jnp.asarray(oracle[name], jnp.float32) for name in NAMES}

  def loss(q, k, v, g, beta, h0):
    o, S = ops.delta_product(
      q, steps(k), steps(v), g, steps(beta), initial_state=h0, implementation=form
    )
    total = jnp.sum(o * oracle["cot_o"]) + jnp.sum(S * oracle["cot_final_state"])
    return total.astype(jnp.float32), (o, S)

  grad = jax.jit(jax.grad(loss, argnums=range(6), has_aux=True))
  grads, (o, S) = grad(*arrays.values())
  np.testing.assert_allclose(o, oracle["o"], atol=1e-5)
  np.testing.assert_allclose(S, oracle["final_state"], atol=1e-5)
  for name, got in zip(NAMES, grads):
    want = oracle[f"grad_{name}"]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), err_msg=name)


def draw(T, n, packed):
  keys = jax.random.split(jax.random.key(T), 6)
  normal = lambda i, *shape: jax.random.normal(keys[i], (2, T, *shape))
  k = normal(1, n, 2, 5)
  k /= jnp.linalg.norm(k, axis=-1, keepdims=True)
  beta = 2 * jax.random.uniform(keys[3], (2, T, n, 2))
  ids = jnp.ones((2, T), jnp.int32)
  if packed:
    ids = ids.at[0, :3].set(0).at[0, 20:].set(2).at[1, 30:].set(0)
  state = jax.random.normal(keys[5], (2, 2, 5, 3))
  g = -jnp.where(jax.random.bernoulli(keys[4], 0.1, (2, T, 2)), 200.0, 0.1)
  return normal(0, 2, 5), k, normal(2, n, 2, 3), g, beta, state, ids


@pytest.mark.parametrize("T, n, packed", [(45, 3, True), (1, 2, False)])
def test_its_forms_agree_with_their_gradients(T, n, packed):
  *arrays, state, ids = draw(T, n, packed)

  def run(form):
    def out(arrays, state):
      return ops.delta_product(
        *arrays, initial_state=state, segment_ids=ids, implementation=form
      )

    out, pull = jax.vjp(out, arrays, state)
    return out, pull(jax.tree.map(jnp.cos, out))

  got, want = (jax.jit(run, static_argnums=0)(f) for f in ("chunked", "recurrent"))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, atol=2e-5 * max(np.abs(b).max(), 1))


def test_one_step_without_decay_is_the_delta_rule():
  q, k, v, _, beta, state, ids = draw(11, 1, False)
  got = ops.delta_product(q, k, v, None, beta, initial_state=state)
  one = lambda x: x[:, :, 0]
  want = ops.delta_rule(q, one(k), one(v), one(beta), initial_state=state)
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_steps_that_differ_are_named():
  q, k, v, g, beta, _, _ = draw(4, 2, False)
  with pytest.raises(ValueError, match="delta_product needs beta .* n = 2"):
    ops.delta_product(q, k, v, g, beta[:, :, :1])
