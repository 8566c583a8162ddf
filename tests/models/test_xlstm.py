import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import models, registry


def test_a_stack_is_its_blocks_one_after_another():
  config = models.xlstm_config(32, 2, num_mlstm=1, dtype=jnp.float32)
  stack = models.Backbone(config)
  x = jax.random.normal(jax.random.key(1), (2, 9, 32))
  params = nn.unbox(jax.jit(stack.init)(jax.random.key(0), x))
  p = jax.tree.map(lambda p: p[0], params["params"]["layers"])
  assert set(p) == {
    *("mixer_norm_0", "mixer_0", "mixer_norm_1", "mixer_1", "mlp_norm_1", "mlp_1")
  }
  assert p["mlp_1"]["up"]["kernel"].shape == (32, 64)

  def norm(x):
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + 1e-6)

  def mix(name, params, x):
    mixer = registry.mixer(name)(features=32, dtype=jnp.float32)
    return jax.jit(mixer.apply)({"params": params}, norm(x))[0]

  want = x + mix("mlstm", p["mixer_0"], x)
  want = want + mix("slstm", p["mixer_1"], want)
  kernel = lambda name: p["mlp_1"][name]["kernel"]
  a = norm(want) @ kernel("gate")
  gelu = a * jax.scipy.stats.norm.cdf(a)
  want = want + (gelu * (norm(want) @ kernel("up"))) @ kernel("down")
  y, _ = jax.jit(stack.apply)(params, x)
  np.testing.assert_allclose(y, norm(want), rtol=1e-4, atol=1e-5)


def test_the_ratio_of_blocks_is_repeated():
  config = models.xlstm_config(32, 16)
  assert config.pattern == ("mlstm",) * 7 + ("slstm",) and config.repeats == 2
