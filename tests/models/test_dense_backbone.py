import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import models, testing


def begin(model, T=7):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, T, 32)), jnp.float32)
  return nn.unbox(jax.jit(model.init)(jax.random.key(0), x)), x


def config(*pattern, **fields):
  return models.BackboneConfig(
    features=32, num_layers=4, pattern=pattern, dtype=jnp.float32, **fields
  )


def test_with_weights_of_one_it_is_a_residual_stack():
  plain = config("mamba", "selective_channel_mixer", remat="full")
  dense = models.DenseBackbone(plain)
  params, x = begin(dense)
  p, layers = params["params"], {}
  for part in ("mixer", "mlp"):
    for place in range(2):
      for ours, theirs in (("{}_{}", "{}_{}"), ("{}_{}_norm", "{}_norm_{}")):
        repeats = [p[ours.format(part, i)] for i in (place, place + 2)]
        stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), *repeats)
        layers[theirs.format(part, place)] = stacked
  residual = {"params": {"layers": layers, "final_norm": p["final_norm"]}}

  def pull(stack, params):
    loss = lambda x: jnp.sum(stack.apply(params, x)[0] ** 3)
    return jax.jit(jax.value_and_grad(loss))(x)

  want = pull(models.Backbone(plain), residual)
  testing.assert_close(pull(dense, params), want)


def test_a_layer_sees_what_its_weights_let_through():
  dense = models.DenseBackbone(config("mamba", mlp="none"))
  params, x = begin(dense)
  p = dict(params["params"])
  # The output is that of the first layer alone, of which the others see nothing.
  p["final_weights"] = jnp.array([0, 1.0, 0, 0, 0])
  y, _ = jax.jit(dense.apply)({"params": p}, x)
  p["mixer_1"] = jax.tree.map(jnp.zeros_like, p["mixer_1"])
  testing.assert_close(jax.jit(dense.apply)({"params": p}, x)[0], y)


def test_decoding_gives_what_the_whole_gives():
  dense = models.DenseBackbone(config("mamba", mlp="none", remat="full"))
  params, x = begin(dense)
  y, last = jax.jit(dense.apply)(params, x)

  def step(state, token):
    out, state = dense.apply(params, token[:, None], state)
    return state, out[:, 0]

  decode = jax.jit(lambda x: jax.lax.scan(step, dense.initial_state(2), x))
  state, got = decode(x.swapaxes(0, 1))
  testing.assert_close((got.swapaxes(0, 1), state), (y, last))
