"""Small data sets, made once."""

import io

import numpy as np
import pytest
from PIL import Image

# Lengths of documents: empty, short, and longer than any row of these tests.
LENGTHS = (5, 0, 1, 30, 2, 7, 0, 100, 3, 11)


def documents(count: int, seed: int) -> list[bytes]:
  """Printable texts whose lengths go round `LENGTHS`."""
  rng = np.random.default_rng(seed)
  lengths = [LENGTHS[i % len(LENGTHS)] for i in range(count)]
  return [rng.integers(32, 127, n).astype(np.uint8).tobytes() for n in lengths]


def image(i: int) -> np.ndarray:
  return np.arange(12, dtype=np.uint8).reshape(3, 4, 1) + 10 * i


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  """Forty-three files in two folders, a few of them empty."""
  root = tmp_path_factory.mktemp("texts")
  (root / "more").mkdir()
  for i, text in enumerate(documents(43, seed=0)):
    (root / ("more" if i % 3 else "") / f"{i}.txt").write_bytes(text)
  return root


@pytest.fixture(scope="session")
def tfds_folder(tmp_path_factory):
  """A data set prepared by TFDS itself, of a class that TFDS does not know by name."""
  import tensorflow_datasets as tfds
  from etils import epath

  root = tmp_path_factory.mktemp("tfds")
  tfds.disable_progress_bar()

  def examples(count, seed):
    for i, text in enumerate(documents(count, seed)):
      png = io.BytesIO()
      Image.fromarray(image(i)[..., 0]).save(png, "png")
      png.seek(0)
      yield i, {"text": text, "label": i % 3, "image": png}

  with tfds.core.registered.skip_registration():

    class SmallTexts(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version("1.0.0")
      # As of a notebook: TFDS would look for this file with a package that it uses but
      # does not require.
      __module__ = "__main__"
      pkg_dir_path = epath.Path(root)

      def _info(self):
        features = dict(
          text=tfds.features.Text(),
          label=tfds.features.ClassLabel(num_classes=3),
          image=tfds.features.Image(shape=(3, 4, 1)),
        )
        return tfds.core.DatasetInfo(
          builder=self, features=tfds.features.FeaturesDict(features)
        )

      def _split_generators(self, dl_manager):
        return dict(train=examples(23, seed=1), validation=examples(9, seed=2))

      def _generate_examples(self):
        raise NotImplementedError  # The splits come with their examples.

  SmallTexts(data_dir=root, file_format="array_record").download_and_prepare()
  return root


@pytest.fixture(scope="session")
def fields(folder, tfds_folder):
  """Of `data.make` and of batches, by name: small sources of every kind."""
  small = dict(dataset="small_texts", data_dir=str(tfds_folder))
  return {
    "bytes": (dict(name="bytes", path=str(folder)), 13),
    "tfds text": (dict(name="tfds", **small), 13),
    "tfds images": (dict(name="tfds", feature="image", label="label", **small), 12),
    "digits": (dict(name="digits"), 64),
    "mqar": (dict(name="mqar", vocab_size=32, num_pairs=3, held_out_examples=10), 15),
    "parity": (dict(name="parity", held_out_examples=10), 9),
    "selective copying": (
      dict(name="selective_copying", num_tokens=2, held_out_examples=10),
      9,
    ),
    "induction heads": (dict(name="induction_heads", held_out_examples=10), 9),
    "arrow pointing": (
      dict(name="arrow_pointing", patch_size=60, held_out_examples=10),
      9,
    ),
  }
