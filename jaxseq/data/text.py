"""Text of files as bytes.

Ids 0 to 255 are bytes and `BOS` stands before a document, a file here. A model of them
that loses n nats over a text of N bytes needs n / (N ln 2) bits per byte: every byte is
predicted exactly once, and there are no other targets.
"""

import dataclasses
import glob
import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import grain
import numpy as np

from jaxseq.data import packing, source

__all__ = [
  "BOS",
  "VOCAB_SIZE",
  "ByteSource",
  "Text",
  "TextConfig",
  "decode",
  "encode",
  "find_files",
]

BOS = 256
VOCAB_SIZE = (
  320  # A multiple of 64, so that a mesh can split it. 257 and more are unused.
)

HELD_OUT = 20  # One file in so many.

# In the standard library: tests, what others installed, caches, programs, and tables of
# characters and manual pages.
NOT_TEXT = {
  *("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"),
  *("idlelib", "lib2to3", "turtledemo", "encodings", "pydoc_data"),
}


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Which files.

  Attributes:
    path: A folder, all of whose files are read but hidden ones; or a file or a glob,
      where ** means any folders. "" is the sources of Python's standard library.
    limit_bytes: The first so many held-out bytes are evaluated. 0 is all.
  """

  path: str = ""
  limit_bytes: int = 0

  def __post_init__(self):
    check_limit("bytes", self.limit_bytes)


def check_limit(name: str, limit_bytes: int) -> None:
  """Raises ValueError if it is negative."""
  if limit_bytes < 0:
    raise ValueError(f"{name} needs limit_bytes >= 0; got {limit_bytes}")


def check_length(sequence_length: int) -> None:
  """Raises ValueError if it is not positive."""
  if sequence_length < 1:
    raise ValueError(f"sequence_length must be at least 1; got {sequence_length}")


def encode(text: bytes) -> np.ndarray:
  """The ids of a document, or of its beginning, as a model reads them: `BOS` first."""
  return np.concatenate([[BOS], np.frombuffer(text, np.uint8)]).astype(np.int32)


def decode(ids: Iterable[int]) -> str:
  """The text of ids. Those that are no byte are left out; UTF-8, errors replaced."""
  return bytes(int(i) for i in ids if i < BOS).decode("utf-8", errors="replace")


class ByteSource(source.Source):
  """A source of documents of bytes. What is held out is in memory."""

  vocab_size = VOCAB_SIZE

  def __init__(self, held_out: Iterable[np.ndarray], limit_bytes: int):
    """Keeps the first `limit_bytes` bytes of the documents, or all if it is 0."""
    self._held_out, left = [], limit_bytes or float("inf")
    for document in held_out:
      self._held_out.append(document[: int(min(left, len(document)))])
      left -= len(document)
      if left <= 0:
        break

  def held_out_bytes(self) -> bytes:
    """The bytes that `evaluation` predicts, in its order.

    Its first k batches are the first k B T of them.
    """
    return b"".join(document.tobytes() for document in self._held_out)

  def evaluation(self, batch_size, sequence_length, process_index=0, process_count=1):
    rows = packed(self._held_out, sequence_length)
    return source.in_order(rows, batch_size, process_index, process_count)


class Text(ByteSource):
  """Files in memory, a twentieth of them held out.

  A file is held out if a hash of its name says so, its path from the folder or from the
  fixed part of the glob. So other files and other machines change nothing. Held-out
  files are in the order of the hash. Where that would leave nothing to train on or to
  hold out, as with a single file, the last twentieth of every file is held out.
  """

  def __init__(self, config: TextConfig):
    """Reads the files.

    Raises:
      ValueError: If there is no text at the path.
    """
    files = [
      (_hash(name), np.fromfile(path, np.uint8))
      for name, path in find_files(config.path)
    ]
    self._train, held_out = _split([(h, text) for h, text in files if len(text)])
    if not sum(map(len, self._train)):
      raise ValueError(f"bytes needs text to read at path; {config.path!r} is empty")
    super().__init__(held_out, config.limit_bytes)

  def train(self, batch_size, sequence_length, seed, process_index=0, process_count=1):
    rows = packed(self._train, sequence_length)
    return source.shuffled(rows, batch_size, seed, process_index, process_count)


def packed(documents: Sequence[np.ndarray], length: int) -> grain.MapDataset:
  """Rows of documents of bytes."""
  check_length(length)
  return grain.MapDataset.source(packing.PackedRows(documents, length, BOS))


def find_files(path: str) -> list[tuple[str, Path]]:
  """The files that `TextConfig.path` means, in the order of their names.

  Raises:
    ValueError: If there are none.
  """
  if not path:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [f for f in root.rglob("*.py") if _is_source(f.relative_to(root))]
  elif (root := Path(path).expanduser()).is_dir():
    files = [f for f in root.rglob("*") if not _is_hidden(f.relative_to(root))]
  else:
    files = [Path(f) for f in glob.glob(str(root), recursive=True)]
    while glob.has_magic(str(root)) or root in files:
      root = root.parent
  named = sorted((f.relative_to(root).as_posix(), f) for f in files if f.is_file())
  if not named:
    raise ValueError(
      f"bytes needs path to be a folder, a file or a glob of text files; "
      f"there are none at {path!r}"
    )
  return named


def _is_source(path: Path) -> bool:
  # _sysconfigdata is written by the build of Python, and holds that machine's paths.
  return NOT_TEXT.isdisjoint(path.parts) and not path.name.startswith("_sysconfigdata")


def _is_hidden(path: Path) -> bool:
  return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _hash(name: str) -> int:
  digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8)
  return int.from_bytes(digest.digest())


def _split(files):
  """Texts with their hashes -> texts to train on, texts held out."""
  held_out = [text for h, text in sorted(files, key=lambda f: f[0]) if not h % HELD_OUT]
  train = [text for h, text in files if h % HELD_OUT]
  if train and held_out:
    return train, held_out
  cuts = [(text, len(text) - -(-len(text) // HELD_OUT)) for _, text in files]
  return [text[:cut] for text, cut in cuts], [text[cut:] for text, cut in cuts]
