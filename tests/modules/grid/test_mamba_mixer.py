import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxseq import testing
from jaxseq.modules.grid import CrossScanMamba, MambaMixer, SelectiveChannelMixer
from jaxseq.modules.ssm import BiMamba


def begin(mixer, T):
  x = jax.random.normal(jax.random.key(1), (2, T, mixer.features))
  return nn.unbox(jax.jit(mixer.init)(jax.random.key(0), x)), x


def test_a_cross_scan_without_convolution_is_turned_as_its_image_is():
  """With one state space for all orders, a transposed image has transposed outputs."""
  mixer = CrossScanMamba(features=32, grid=(3, 3), state_size=4, dtype=jnp.float32)
  params, x = begin(mixer, 9)
  share = lambda p: jnp.broadcast_to(p[:1], p.shape)
  p = dict(params["params"], ssm=jax.tree.map(share, params["params"]["ssm"]))
  center = jnp.zeros((3, 3, 1, 64)).at[1, 1].set(1)
  p["conv"] = dict(p["conv"], kernel=center)
  apply = jax.jit(mixer.apply)
  y, _ = apply({"params": p}, x)
  for turn in (
    lambda a: a.reshape(2, 3, 3, 32).swapaxes(1, 2).reshape(2, 9, 32),
    lambda a: a[:, ::-1],
  ):
    testing.assert_close(apply({"params": p}, turn(x))[0], turn(y))


def test_channels_are_mixed_as_tokens_by_a_bidirectional_mamba():
  mixer = SelectiveChannelMixer(features=24, num_tokens=32, dtype=jnp.float32)
  params, x = begin(mixer, 32)
  bi_mamba = BiMamba(features=32, expand=1, dtype=jnp.float32)
  inside = {"params": params["params"]["over_channels"]}
  want, _ = jax.jit(bi_mamba.apply)(inside, x.swapaxes(1, 2))
  y, _ = jax.jit(mixer.apply)(params, x)
  testing.assert_close(y, want.swapaxes(1, 2))
  few, _ = jax.jit(mixer.apply)(params, x[:, :9])
  filled, _ = jax.jit(mixer.apply)(params, x.at[:, 9:].set(0))
  testing.assert_close(few, filled[:, :9])


def test_parts_are_added_up():
  mixer = MambaMixer(features=32, grid=(2, 3), num_tokens=6, dtype=jnp.float32)
  params, x = begin(mixer, 6)
  p = params["params"]
  token = CrossScanMamba(features=32, grid=(2, 3), dtype=jnp.float32)
  channel = SelectiveChannelMixer(features=32, num_tokens=6, dtype=jnp.float32)
  y, _ = jax.jit(token.apply)({"params": p["token"]}, x)
  z, _ = jax.jit(channel.apply)({"params": p["channel"]}, x + y)
  testing.assert_close(jax.jit(mixer.apply)(params, x)[0], y + z)


def test_sizes_that_do_not_fit_are_named():
  mixer = SelectiveChannelMixer(features=32, num_tokens=4)
  with pytest.raises(ValueError, match="at most num_tokens = 4 tokens; got 5"):
    jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 5, 32)))
  with pytest.raises(ValueError, match="num_tokens = 6, the size of the grid; got 32"):
    MambaMixer(features=32, grid=(2, 3))
