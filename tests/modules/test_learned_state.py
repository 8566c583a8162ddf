import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseq import registry, testing
from jaxseq.modules.learned_state import LearnedInitialState

pytestmark = pytest.mark.slow


def build(name, **attributes):
  mixer = registry.mixer(name)(features=32, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(1), (2, 11, 32))
  module = LearnedInitialState(mixer, **attributes)
  return mixer, module, nn.unbox(jax.jit(module.init)(jax.random.key(0), x)), x


@pytest.mark.parametrize("name", ["gla", "retnet", "gated_delta_net", "mlstm"])
def test_at_first_it_is_the_mixer(name):
  mixer, module, params, x = build(name)
  got = jax.jit(module.apply)(params, x)
  testing.assert_close(
    got, jax.jit(mixer.apply)({"params": params["params"]["mixer"]}, x)
  )


def test_it_is_the_mixer_from_the_learned_state():
  mixer, module, params, x = build("gated_delta_net", rank=2)
  noise = lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape)
  params = jax.tree.map(noise, params)
  state = module.apply(params, 2, method="first_state")
  assert np.linalg.matrix_rank(state.memory[0, 0]) == 2
  head, between = jax.jit(module.apply)(params, x[:, :4])
  tail, last = jax.jit(module.apply)(params, x[:, 4:], between)
  want = jax.jit(mixer.apply)({"params": params["params"]["mixer"]}, x, state)
  testing.assert_close((jnp.concatenate([head, tail], axis=1), last), want)


def test_the_state_is_learned_with_the_weights_frozen():
  mixer, module, params, x = build("gla", rank=1)
  a, b = jax.random.normal(jax.random.key(2), (2, 1, 4, 8))
  memory = jnp.broadcast_to(a[..., :4, None] * b[..., None, :], (2, 4, 4, 8))
  target, _ = jax.jit(mixer.apply)({"params": params["params"]["mixer"]}, x, memory)
  kind = {"params": {n: n != "mixer" for n in params["params"]}}
  optimizer = optax.chain(
    optax.masked(optax.adam(0.05), kind),
    optax.masked(optax.set_to_zero(), jax.tree.map(lambda learned: not learned, kind)),
  )

  def loss(params):
    return jnp.mean((jax.jit(module.apply)(params, x)[0] - target) ** 2)

  @jax.jit
  def step(carry, _):
    params, state = carry
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), value

  (after, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=150)
  assert losses[-1] < 0.05 * losses[0]
  testing.assert_close(after["params"]["mixer"], params["params"]["mixer"])


def test_packed_documents_are_refused():
  _, module, params, x = build("gla")
  with pytest.raises(ValueError, match="segment_ids"):
    jax.jit(module.apply)(params, x, segment_ids=jnp.ones((2, 11), jnp.int32))
