import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import layers
from jaxseq.layers import prepbn

NORM = layers.PRepBN()


def trained():
  """Variables after a few steps, with parameters that are neither zero nor one."""
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 7, 6))
  variables = nn.unbox(NORM.init(jax.random.key(1), x))
  noise = lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape)
  params = jax.tree.map(noise, variables["params"])
  for step in range(3):
    share = prepbn.layer_norm_share(step, 2)
    given = {"params": params, "batch_stats": variables["batch_stats"]}
    _, variables = NORM.apply(given, x, share, train=True, mutable=["batch_stats"])
  return {"params": params, **variables}, x


def test_the_linear_layer_after_it_takes_it_in():
  variables, x = trained()
  kernel = jax.random.normal(jax.random.key(2), (6, 5))
  bias = jax.random.normal(jax.random.key(3), (5,))
  want = jnp.dot(NORM.apply(variables, x), kernel, precision="highest") + bias
  folded_kernel, folded_bias = prepbn.fold(variables, kernel, bias)
  got = jnp.dot(x, folded_kernel, precision="highest") + folded_bias
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_it_goes_from_the_layer_norm_to_the_batch_norm():
  variables, x = trained()
  norm = lambda x, axis: (
    (x - x.mean(axis, keepdims=True))
    / np.sqrt(x.var(axis, keepdims=True) + prepbn.EPSILON)
  )
  p = jax.tree.map(np.asarray, variables["params"])
  affine = lambda y, p: y * p["scale"] + p["bias"]
  token = affine(norm(np.asarray(x), -1), p["layer_norm"])
  batch = affine(norm(np.asarray(x), (0, 1)), p["batch_norm"]) + p["eta"] * x
  for share in (1.0, 0.25, 0.0):
    got, _ = NORM.apply(variables, x, share, train=True, mutable=["batch_stats"])
    want = share * token + (1 - share) * batch
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
    [prepbn.layer_norm_share(step, 10) for step in (0, 5, 10, 20)], [1, 0.5, 0, 0]
  )


def test_padding_does_not_count():
  variables, x = trained()
  ids = jnp.ones(x.shape[:2], jnp.int32).at[:, 5:].set(0)
  run = lambda x, ids: NORM.apply(
    variables, x, 0.0, train=True, segment_ids=ids, mutable=["batch_stats"]
  )
  got, stats = run(x.at[:, 5:].set(1e3), ids)
  want, want_stats = run(x[:, :5], None)
  np.testing.assert_allclose(got[:, :5], want, rtol=1e-4, atol=1e-4)
  for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(want_stats)):
    np.testing.assert_allclose(a, b, rtol=1e-5)
