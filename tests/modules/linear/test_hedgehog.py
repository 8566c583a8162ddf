import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseq import registry, testing
from jaxseq.modules.linear import hedgehog


def test_the_distillation_loss_is_the_entropy_of_softmax_where_weights_are_equal():
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 7, 2, 1))
  # Two features a token give weights exp(q k) if q is the same for all tokens.
  q = jnp.ones_like(q)
  phi_k = jnp.exp(k)
  loss = hedgehog.distillation_loss(q, k, jnp.ones_like(q), phi_k)
  weights = np.exp(np.asarray(k[0], np.float64))[..., 0]  # [T, H]
  entropies = []
  for t in range(7):
    p = weights[: t + 1] / weights[: t + 1].sum(axis=0)
    entropies.append(-(p * np.log(p)).sum(axis=0))
  np.testing.assert_allclose(loss, np.mean(entropies), rtol=1e-5)


def test_padding_and_other_documents_have_no_part_in_the_loss():
  q, k = jax.random.normal(jax.random.key(0), (2, 2, 11, 2, 4))
  arrays = [np.asarray(x[:1]) for x in (q, k, jnp.exp(q), jnp.exp(k))]
  loss = jax.jit(hedgehog.distillation_loss)
  ids = jnp.array([[1] * 4 + [2] * 5 + [0] * 2])
  parts = [loss(*(x[:, a:b] for x in arrays)) for a, b in [(0, 4), (4, 9)]]
  want = (4 * parts[0] + 5 * parts[1]) / 9
  np.testing.assert_allclose(loss(*arrays, ids), want, rtol=1e-5)


def test_distillation_teaches_the_maps_and_nothing_else():
  mixer = registry.mixer("hedgehog")(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  params = nn.unbox(params)

  def loss(params):
    _, sown = mixer.apply(params, x, mutable="distillation")
    return sown["distillation"]["loss"][0]

  grads = jax.jit(jax.grad(loss))(params)["params"]
  assert all(jnp.abs(grads[name]["kernel"]).max() > 0 for name in ("map_q", "map_k"))

  optimizer = optax.adam(0.03)

  @jax.jit
  def step(maps, state):
    def of_maps(maps):
      return loss({"params": params["params"] | maps})

    value, grads = jax.value_and_grad(of_maps)(maps)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(maps, updates), state, value

  maps = {name: params["params"][name] for name in ("map_q", "map_k")}
  state, values = optimizer.init(maps), []
  for _ in range(60):
    maps, state, value = step(maps, state)
    values.append(float(value))
  floor = entropy_of_softmax(params["params"], x)
  assert values[-1] > floor
  assert values[-1] - floor < 0.6 * (values[0] - floor)


def entropy_of_softmax(params, x):
  q, k = (jnp.dot(x, params[n]["kernel"]).reshape(*x.shape[:2], 4, 8) for n in "qk")
  scores = jnp.einsum("bthk,bshk->bhts", q, k) / 8**0.5
  T = x.shape[1]
  p = nn.softmax(jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -1e30))
  return float(-jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=-1).mean())
