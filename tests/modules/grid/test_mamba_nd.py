import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import models, testing
from jaxseq.modules.grid import MambaND
from jaxseq.modules.grid.mamba_nd import alternating
from jaxseq.modules.ssm import Mamba


def test_a_volume_is_read_along_one_axis_in_one_direction():
  grid = (2, 3, 4)
  mixer = MambaND(features=32, grid=grid, fastest=0, reverse=True, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(1), (2, 24, 32))
  params = jax.jit(mixer.init)(jax.random.key(0), x)
  y, _ = jax.jit(mixer.apply)(params, x)
  # From t h w to w h t, as in the authors' code, and from the end.
  turned = x.reshape(2, *grid, 32).transpose(0, 3, 2, 1, 4).reshape(x.shape)[:, ::-1]
  mamba = Mamba(features=32, dtype=jnp.float32)
  want, _ = jax.jit(mamba.apply)({"params": params["params"]["mamba"]}, turned)
  want = want[:, ::-1].reshape(2, *grid[::-1], 32).transpose(0, 3, 2, 1, 4)
  testing.assert_close(y, want.reshape(x.shape))


def test_layers_of_a_stack_alternate_between_axes_and_directions():
  config = models.BackboneConfig(
    features=32,
    num_layers=8,
    pattern=("mamba_nd",) * 4,
    mixer_options={"mamba_nd": dict(state_size=4), **alternating((3, 5))},
    mlp="none",
    dtype=jnp.float32,
  )
  layers = [config.mixer("mamba_nd", i) for i in range(4)]
  assert [(m.fastest, m.reverse) for m in layers] == [
    (1, False),
    (1, True),
    (0, False),
    (0, True),
  ]
  assert all(m.state_size == 4 and m.grid == (3, 5) for m in layers)
  # Every output of the stack sees every input.
  stack = models.Backbone(config)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 15, 32)), jnp.float32)
  params = jax.jit(stack.init)(jax.random.key(0), x)
  first = lambda x: jnp.sum(stack.apply(params, x)[0][0, 0] ** 3)
  assert (jnp.abs(jax.jit(jax.grad(first))(x)).max(axis=-1) > 0).all()


def test_a_grid_that_does_not_fit_is_named():
  with pytest.raises(ValueError, match="fastest, an axis of a grid of 2; got 2"):
    MambaND(features=32, grid=(2, 3), fastest=2)
  mixer = MambaND(features=32, grid=(2, 3))
  with pytest.raises(ValueError, match="a grid of 2 x 3 needs T = 6; got 5"):
    jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 5, 32)))
  with pytest.raises(ValueError, match="places in the pattern, 0, 1; got 2"):
    models.BackboneConfig(32, 2, ("mamba_nd",) * 2, mixer_options={"2": {}})
