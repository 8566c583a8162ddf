import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.tasks import just_read_twice, recall


def test_the_context_is_repeated_before_the_rest():
  batch = dict(
    inputs=jnp.array([[1, 2, 3, 8, 9, 0], [4, 5, 8, 9, 7, 6]]),
    targets=jnp.array([[2, 3, 8, 9, 7, 0], [5, 8, 9, 7, 6, 1]]),
    weights=jnp.array([[1.0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]),
    segment_ids=jnp.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]),
  )
  run = jax.jit(just_read_twice.read_twice, static_argnums=2)
  got = run(batch, jnp.array([3, 2]), 9)
  np.testing.assert_array_equal(
    got["inputs"], [[1, 2, 3, 1, 2, 3, 8, 9, 0], [4, 5, 4, 5, 8, 9, 7, 6, 0]]
  )
  np.testing.assert_array_equal(
    got["weights"], [[0, 0, 0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1, 1, 0]]
  )
  np.testing.assert_array_equal(got["segment_ids"][:, -2:], [[1, 0], [1, 0]])
  np.testing.assert_array_equal(got["targets"][0], [2, 3, 8, 2, 3, 8, 9, 7, 0])


def test_questions_keep_their_answers():
  config = recall.RecallConfig(vocab_size=64, num_pairs=3)
  batch = recall.batch(jax.random.split(jax.random.key(0), 4), config, 20)
  twice = just_read_twice.read_twice(batch, jnp.full(4, 6), 26)
  asked = lambda b: (b["inputs"][b["weights"] > 0], b["targets"][b["weights"] > 0])
  np.testing.assert_array_equal(asked(twice), asked(batch))
