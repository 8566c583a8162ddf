import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import layers, testing


def direct(hidden, head, targets, weights):
  log_p = jax.nn.log_softmax(jnp.einsum("btd,dw->btw", hidden, head))
  picked = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
  return -jnp.sum(picked * weights)


@pytest.mark.parametrize("length", [1, 128, 301])
def test_chunks_sum_to_the_whole_with_its_gradients(length):
  keys = jax.random.split(jax.random.key(0), 4)
  hidden = jax.random.normal(keys[0], (2, length, 8))
  head = jax.random.normal(keys[1], (8, 50))
  targets = jax.random.randint(keys[2], (2, length), 0, 50)
  weights = jax.random.bernoulli(keys[3], 0.7, (2, length)).astype(jnp.float32)
  chunked = lambda h, w: layers.cross_entropy(h, w, targets, weights)[0]
  whole = lambda h, w: direct(h, w, targets, weights)
  got = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1)))(hidden, head)
  want = jax.jit(jax.value_and_grad(whole, argnums=(0, 1)))(hidden, head)
  testing.assert_close(got, want)


def test_it_counts_the_tokens_that_were_right():
  hidden = jnp.eye(3)[None]  # Token t has its largest logit at id t.
  targets = jnp.array([[0, 2, 2]])
  _, right = layers.cross_entropy(hidden, jnp.eye(3), targets, jnp.ones((1, 3)))
  assert right == 2
  _, right = layers.cross_entropy(hidden, jnp.eye(3), targets, jnp.array([[0, 1, 1]]))
  assert right == 1


def test_no_array_has_all_logits():
  B, T, D, W = 2, 2048, 16, 8192
  shapes = [
    jax.ShapeDtypeStruct(s, t)
    for s, t in [
      ((B, T, D), jnp.float32),
      ((D, W), jnp.float32),
      ((B, T), jnp.int32),
      ((B, T), jnp.float32),
    ]
  ]
  loss = lambda *args: layers.cross_entropy(*args)[0]
  compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
  temporary = compiled.memory_analysis().temp_size_in_bytes
  assert temporary < B * T * W * 4 / 4, f"{temporary / 2**20:.0f} MiB"


def test_bfloat16_hidden_states_are_summed_in_float32():
  hidden = jnp.ones((1, 512, 4), jnp.bfloat16)
  loss, _ = layers.cross_entropy(
    hidden, jnp.zeros((4, 10)), jnp.zeros((1, 512), jnp.int32), jnp.ones((1, 512))
  )
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, 512 * np.log(10), rtol=1e-5)
