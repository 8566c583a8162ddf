import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.layers import routing


def test_balance_is_one_if_all_parts_are_used_alike_and_most_if_few_are():
  route = jnp.asarray([[[0, 1], [2, 3]]])
  assert np.isclose(routing.load_balance(jnp.full((1, 2, 4), 0.25), route), 1)
  p = jnp.zeros((1, 2, 4)).at[..., :2].set(0.5)
  always = jnp.asarray([[[0, 1], [1, 0]]])
  assert np.isclose(routing.load_balance(p, always), 4 / 2)


def test_padding_does_not_count():
  rng = np.random.default_rng(0)
  p = jax.nn.softmax(jnp.asarray(rng.normal(size=(2, 5, 4))))
  route = jax.lax.top_k(p, 2)[1]
  ids = jnp.ones((2, 5), jnp.int32).at[:, 3:].set(0)
  spoiled = p.at[:, 3:].set(jnp.nan)
  got = routing.load_balance(spoiled, route, ids)
  np.testing.assert_allclose(got, routing.load_balance(p[:, :3], route[:, :3]))


def test_the_router_takes_the_most_probable_parts():
  router = routing.Router(5, 2)
  x = jax.random.normal(jax.random.key(0), (1, 3, 8))
  params = router.init(jax.random.key(1), x)
  (weights, route), sown = router.apply(params, x, mutable=["losses"])
  kernel = jax.tree.leaves(params)[0]
  p = np.asarray(jax.nn.softmax(x @ kernel))
  np.testing.assert_allclose(weights, np.sort(p, axis=-1)[..., :2:-1], rtol=1e-5)
  np.testing.assert_allclose(np.take_along_axis(p, np.asarray(route), -1), weights)
  assert sown["losses"]["load_balance"][0] > 0
