import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.ops import kv_cache

SLOTS = 4


def tokens(count, first=0):
  """Keys and values that tell their token's number, counted from 1."""
  number = 1.0 + first + jnp.arange(count, dtype=jnp.float32)
  k = jnp.broadcast_to(number[None, :, None, None], (1, count, 2, 3))
  return k, -k[..., :1]


def empty():
  return kv_cache.empty(1, SLOTS, 2, 3, 1, jnp.float32)


def stored(cache):
  """The number in each slot."""
  np.testing.assert_array_equal(cache.k[..., :1], -cache.v)
  return cache.k[0, :, 0, 0].astype(int).tolist()


@pytest.mark.parametrize(
  "count, want", [(0, [0] * 4), (3, [1, 2, 3, 0]), (4, [1, 2, 3, 4]), (6, [5, 6, 3, 4])]
)
def test_a_token_lies_in_the_slot_of_its_position(count, want):
  cache = empty()
  if count:
    cache = kv_cache.append(cache, *tokens(count))
  assert stored(cache) == want and cache.length[0] == count
  place = np.array(kv_cache.slot_positions(cache.length, SLOTS)[0])
  np.testing.assert_array_equal(np.maximum(place + 1, 0), want)


@pytest.mark.parametrize("cut", [1, 3, 4, 9])
def test_appending_in_parts_is_appending_at_once(cut):
  whole = kv_cache.append(empty(), *tokens(11))
  parts = kv_cache.append(empty(), *tokens(cut))
  parts = kv_cache.append(parts, *tokens(11 - cut, first=cut))
  jax.tree.map(np.testing.assert_array_equal, parts, whole)


@pytest.mark.parametrize(
  "ids, want, length",
  [
    ([5, 5, 0, 0], [1, 2, 101, 102], 4),  # Continues the document of the cache.
    ([0, 5, 5, 5], [104, 2, 102, 103], 5),
    ([5, 8, 8, 0], [102, 103, 0, 0], 2),  # Another begins, the old one is gone.
    ([5, 8, 5, 5], [103, 104, 0, 0], 2),
    ([0, 0, 0, 0], [1, 2, 0, 0], 2),
  ],
)
def test_the_last_document_of_a_row_stays(ids, want, length):
  cache = kv_cache.append(empty(), *tokens(2))
  cache = kv_cache.append(cache, *tokens(4, first=100), jnp.array([ids]))
  assert stored(cache) == want and cache.length[0] == length
