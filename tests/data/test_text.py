import gzip
import lzma
import time

import numpy as np
import pytest

from jaxseq import data
from jaxseq.data import text


def targets(batches):
  """The bytes that are predicted, in the order of rows."""
  return b"".join(
    batch["targets"][batch["weights"] > 0].astype(np.uint8).tobytes()
    for batch in batches
  )


@pytest.mark.parametrize("length", [1, 7, 64])
@pytest.mark.parametrize("limit", [0, 1, 17, 10**6])
def test_every_held_out_byte_is_evaluated_exactly_once(folder, length, limit):
  source = data.make("bytes", path=str(folder), limit_bytes=limit)
  held_out = source.held_out_bytes()
  everything = data.make("bytes", path=str(folder)).held_out_bytes()
  assert held_out == everything[: limit or None] and held_out
  batches = list(source.evaluation(4, length))
  assert targets(batches) == held_out
  assert sum(batch["weights"].sum() for batch in batches) == len(held_out)
  assert targets(batches[:1]) == held_out[: 4 * length]


def test_an_epoch_of_training_has_each_other_byte_once(folder):
  source = data.make("bytes", path=str(folder))
  held_out = [d.tobytes() for d in source._held_out]
  files = [f.read_bytes() for f in folder.rglob("*.txt")]
  rest = list(files)
  for document in held_out:
    rest.remove(document)
  assert held_out and len(rest) + len(held_out) == 43
  rows = -(-sum(map(len, rest)) // 8)
  batches = source.train(1, 8, seed=0)
  epochs = [[next(batches) for _ in range(rows)] for _ in range(2)]
  assert targets(epochs[0]) != targets(epochs[1]), "the epochs have one order"
  for epoch in epochs:
    assert sorted(targets(epoch)) == sorted(b"".join(rest))


def test_which_files_are_held_out_depends_on_their_names_alone(folder, tmp_path):
  names = [name for name, _ in text.find_files(str(folder))]
  other = tmp_path / "elsewhere"
  for name in names[::2] + ["new.txt", ".hidden", "__pycache__/x.txt"]:
    path = other / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())
  by_name = lambda path: {
    d.tobytes().decode() for d in data.make("bytes", path=str(path))._held_out
  }
  whole = {name for name in names if text._hash(name) % text.HELD_OUT == 0}
  assert whole & set(names[::2]), "choose other names: none of these is held out"
  assert by_name(other) - {"new.txt"} == whole & set(names[::2])
  assert by_name(other / "**" / "*.txt") - {"new.txt"} == whole & set(names[::2])
  found = {name for name, _ in text.find_files(str(other))}
  assert found == {*names[::2], "new.txt"}


def test_of_a_single_file_the_end_is_held_out(tmp_path):
  path = tmp_path / "all.txt"
  path.write_bytes(bytes(range(250)))
  source = data.make("bytes", path=str(path))
  assert source.held_out_bytes() == bytes(range(237, 250))
  assert targets([next(source.train(1, 237, 0))]) == bytes(range(237))


def test_a_path_without_text_is_named(tmp_path):
  for path in (tmp_path / "missing", tmp_path, tmp_path / "*.txt"):
    with pytest.raises(ValueError, match=f"there are none at .*{tmp_path.name}"):
      data.make("bytes", path=str(path))
  (tmp_path / "empty.txt").touch()
  with pytest.raises(ValueError, match="is empty"):
    data.make("bytes", path=str(tmp_path))


def test_the_standard_library_is_read_in_a_moment():
  start = time.perf_counter()
  source = data.make("bytes")
  next(source.train(16, 256, 0))
  assert time.perf_counter() - start < 10  # 0.3 s on a quiet machine.
  names = {name for name, _ in text.find_files("")}
  assert {"dataclasses.py", "asyncio/events.py"} <= names
  assert not any("test" in name.split("/") or "site-p" in name for name in names)
  held_out = len(source.held_out_bytes())
  assert 0.02 < held_out / (held_out + sum(map(len, source._train))) < 0.1


def test_ids_are_bytes_after_the_mark_of_the_beginning():
  ids = data.encode("añ".encode())
  assert ids.tolist() == [data.BOS, 97, 0xC3, 0xB1] and ids.dtype == np.int32
  assert data.decode(ids) == "añ"
  assert data.decode([300, 98, 0xC3]) == "b\N{REPLACEMENT CHARACTER}"


def test_compressors_are_measured_by_the_files_they_write(tmp_path):
  text = b"to be or not to be, " * 40
  bits = data.compressed_bits_per_byte(text)
  packed = {
    "gzip -9": gzip.compress(text, 9, mtime=0),
    "xz -9": lzma.compress(text, preset=9),
  }
  assert bits == {name: 8 * len(x) / len(text) for name, x in packed.items()}
  assert max(bits.values()) < 2
  with pytest.raises(ValueError, match="at least one byte"):
    data.compressed_bits_per_byte(b"")
