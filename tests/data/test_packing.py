import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq.data import packing

BOS = 1000


@st.composite
def documents(draw):
  """Documents whose ids are all different, so that each can be found again."""
  lengths = draw(st.lists(st.integers(0, 20), max_size=12))
  ends = np.cumsum([0, *lengths])
  return [np.arange(a, b) for a, b in zip(ends, ends[1:])]


def test_the_picture_in_the_docstring_is_true():
  a, b, c, d, e, f, g, h, i, j = range(1, 11)
  docs = [np.array(x) for x in ([a, b, c, d, e], [f, g], [h, i, j])]
  rows = packing.pack(docs, 4, BOS)
  want = [[a, b, c, d], [e, f, g, h], [i, j, 0, 0]]
  np.testing.assert_array_equal(rows["targets"], want)
  want = [[BOS, a, b, c], [d, BOS, f, BOS], [h, i, 0, 0]]
  np.testing.assert_array_equal(rows["inputs"], want)
  want = [[1, 1, 1, 1], [1, 2, 2, 3], [1, 1, 0, 0]]
  np.testing.assert_array_equal(rows["segment_ids"], want)
  np.testing.assert_array_equal(rows["weights"], np.array(want) > 0)


@settings(deadline=None, max_examples=60)
@given(documents(), st.integers(1, 15))
def test_each_token_is_a_target_once_and_predicted_from_its_own_document(docs, length):
  rows = packing.pack(docs, length, BOS)
  real = rows["weights"] == 1
  tokens = np.concatenate([np.zeros(0, int), *docs])
  np.testing.assert_array_equal(rows["targets"][real], tokens)
  before = {int(d[0]): BOS for d in docs if len(d)}  # The input that each target needs.
  before |= {int(b): int(a) for d in docs for a, b in zip(d, d[1:])}
  pairs = zip(rows["inputs"][real], rows["targets"][real])
  assert all(before[int(target)] == token for token, target in pairs)


@settings(deadline=None, max_examples=60)
@given(documents(), st.integers(1, 15))
def test_segments_are_documents_and_only_the_very_end_is_padding(docs, length):
  rows = packing.pack(docs, length, BOS)
  number = {int(t): i for i, d in enumerate(docs) for t in d}  # Of its document.
  total = sum(map(len, docs))
  assert rows["targets"].shape == (-(-total // length), length)
  flat = {name: x.reshape(-1) for name, x in rows.items()}
  for name in flat:
    assert not flat[name][total:].any(), f"{name} at padding"
  np.testing.assert_array_equal(flat["weights"][:total], 1)
  for ids, targets in zip(rows["segment_ids"], rows["targets"]):
    ids, targets = ids[ids > 0], targets[ids > 0]
    # 1, 2, ... along the row, rising just where the document changes.
    docs_here = np.array([number[int(t)] for t in targets])
    np.testing.assert_array_equal(np.diff(ids), np.diff(docs_here) != 0)
    assert ids[0] == 1


def test_rows_are_made_one_by_one_as_all_at_once():
  docs = [np.arange(n) + 1 for n in (3, 0, 17, 1, 8)]
  rows, arrays = packing.PackedRows(docs, 6, BOS), packing.pack(docs, 6, BOS)
  assert len(rows) == 5
  for i in reversed(range(5)):
    for name, x in rows[i].items():
      np.testing.assert_array_equal(x, arrays[name][i])
      assert x.dtype == (np.float32 if name == "weights" else np.int32)
  with pytest.raises(IndexError, match="row 5 of 5"):
    rows[5]
