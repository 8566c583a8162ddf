import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import models, testing


def stack(*pattern):
  return models.BackboneConfig(
    features=8,
    num_layers=len(pattern),
    pattern=pattern,
    mlp="none",
    dtype=jnp.float32,
  )


MODEL = models.HiSS(stack("rwkv4"), stack("min_gru"), chunk_size=4, num_outputs=3)


def example(T=12):
  """Parameters with noise, so that no layer is nothing, and samples."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, T, 5)).astype(np.float32)
  params = nn.unbox(jax.jit(MODEL.init)(jax.random.key(0), x))
  noisy = lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32)
  return jax.tree.map(noisy, params), x


def test_streaming_sample_by_sample_gives_what_whole_chunks_give():
  params, x = example()
  want, high = jax.jit(MODEL.apply)(params, x)

  @jax.jit
  def stream(params, x, state):
    def step(state, sample):
      y, new, state = MODEL.apply(params, sample, state, method="step")
      return state, (y, new)

    return jax.lax.scan(step, state, x.swapaxes(0, 1))

  state, (y, new) = stream(params, x, MODEL.initial_state(2))
  np.testing.assert_array_equal(new, np.arange(12) % 4 == 3)
  testing.assert_close(y[3::4].swapaxes(0, 1), want)
  np.testing.assert_array_equal(y[4:7], np.broadcast_to(y[3], (3, 2, 3)))
  testing.assert_close(state.high, high)
  empty = MODEL.initial_state(2)
  testing.assert_close((state.low, state.count), (empty.low, empty.count))


def test_chunks_go_on_from_the_state_of_those_before():
  params, x = example()
  run = jax.jit(MODEL.apply)
  whole, last = run(params, x)
  head, state = run(params, x[:, :4])
  tail, end = run(params, x[:, 4:], state)
  testing.assert_close((jnp.concatenate([head, tail], 1), end), (whole, last))


def test_documents_of_whole_chunks_are_separate():
  params, x = example()
  ids = np.repeat(np.array([[1, 2, 2], [3, 3, 0]]), 4, axis=1)
  garbage = np.where(ids[..., None] == 0, np.float32(np.nan), x)
  y, _ = jax.jit(MODEL.apply)(params, garbage, segment_ids=ids)
  assert not y[1, 2].any()
  alone, _ = jax.jit(MODEL.apply)(params, x[:, 4:])
  testing.assert_close(y[0, 1:], alone[0])
  whole, _ = jax.jit(MODEL.apply)(params, x)
  testing.assert_close(y[1, :2], whole[1, :2])


def test_the_loss_is_the_mean_square_over_the_chunks_that_count():
  params, x = example()
  y, _ = jax.jit(MODEL.apply)(params, x)
  weights = np.float32([[1, 0, 1], [1, 1, 0]])
  batch = dict(inputs=x, segment_ids=np.ones((2, 12), np.int32), weights=weights)
  batch["targets"] = y + 2.0 * weights[..., None] + 5.0 * (1 - weights[..., None])
  loss, sums = jax.jit(lambda p, b: MODEL.apply(p, b, method="loss"))(params, batch)
  np.testing.assert_allclose(loss / sums["weight"], 4, rtol=1e-5)


def test_a_broken_chunk_is_named():
  with pytest.raises(ValueError, match="multiple of chunk_size = 4; got 10"):
    jax.eval_shape(MODEL.init, jax.random.key(0), jnp.ones((2, 10, 5)))
  with pytest.raises(ValueError, match="chunk_size >= 1; got 0"):
    models.HiSS(stack("s5"), stack("s5"), chunk_size=0, num_outputs=1)
