import jax.numpy as jnp
import numpy as np

from jaxseq.ops import segments

IDS = jnp.array([[0, 0, 5, 5, 5, 2, 2, 0], [3, 3, 0, 5, 0, 3, 3, 3]])


def test_documents_are_numbered_in_their_row():
  parsed = segments.parse(IDS)
  np.testing.assert_array_equal(parsed.valid, IDS != 0)
  starts = [[0, 0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 1, 0, 0]]
  np.testing.assert_array_equal(parsed.starts, np.array(starts, bool))
  index = [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 2, 2, 2]]
  np.testing.assert_array_equal(parsed.index, index)


def test_positions_continue_the_first_document_and_restart_at_others():
  place = segments.positions(IDS, jnp.array([10, 20]))
  want = np.array([[0, 0, 10, 11, 12, 0, 1, 0], [20, 21, 0, 0, 0, 0, 1, 2]])
  real = np.asarray(IDS != 0)
  np.testing.assert_array_equal(np.asarray(place)[real], want[real])
  np.testing.assert_array_equal(
    segments.positions(None, jnp.array([3]), (1, 2)), [[3, 4]]
  )


def test_lengths_are_those_of_the_last_document():
  length = jnp.array([10, 20])
  np.testing.assert_array_equal(segments.length_after(IDS, length, 8), [2, 3])
  one = jnp.array([[0, 4, 4], [0, 0, 0]])
  np.testing.assert_array_equal(segments.length_after(one, length, 3), [12, 20])
  np.testing.assert_array_equal(segments.length_after(None, length, 3), [13, 23])


def test_ids_from_cumulative_lengths():
  ids = segments.from_cu_seqlens(jnp.array([0, 3, 4, 6]), 8)
  np.testing.assert_array_equal(ids, [[1, 1, 1, 2, 3, 3, 0, 0]])
