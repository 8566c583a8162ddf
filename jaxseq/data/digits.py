"""The handwritten digits of scikit-learn, one pixel a token, to classify.

1,797 images of 8 x 8 pixels in rows, a small stand-in for sequential MNIST and its
permuted form (Le et al. 2015, arXiv:1504.00941, sec. 4.2).
"""

import dataclasses

import grain
import numpy as np

from jaxseq.data import source

__all__ = ["Digits", "DigitsConfig"]

LENGTH = 64  # Pixels of an image.
HELD_OUT = 5  # One image of each class in so many.


@dataclasses.dataclass(frozen=True)
class DigitsConfig:
  """The images as sequences.

  Attributes:
    permuted: Whether the pixels of all images are shuffled, in one order for all.
    noise: Standard deviation of what is added to the pixels of a training image each
      time that it is seen.
  """

  permuted: bool = False
  noise: float = 0.0

  def __post_init__(self):
    if self.noise < 0:
      raise ValueError(f"digits needs noise >= 0; got {self.noise}")


class Digits(source.Source):
  """Each fifth image of a class is held out. Inputs are [B, 64, 1] in [0, 1]."""

  num_inputs = 1
  num_outputs = 10

  def __init__(self, config: DigitsConfig):
    """Reads the images, which come with scikit-learn.

    Raises:
      ValueError: If scikit-learn is not installed.
    """
    try:
      from sklearn import datasets
    except ImportError as error:
      raise ValueError(
        "digits needs scikit-learn, which is not installed: pip install scikit-learn"
      ) from error
    self._noise = config.noise
    pixels, labels = datasets.load_digits(return_X_y=True)
    if config.permuted:
      pixels = pixels[:, np.random.default_rng(0).permutation(LENGTH)]
    # How many images of the same class come before each.
    before = (np.cumsum(np.eye(10)[labels], axis=0) - 1)[np.arange(len(labels)), labels]
    held_out = before % HELD_OUT == HELD_OUT - 1
    inputs = (pixels / 16)[..., None]  # Pixels are counts up to 16.
    self._train = list(zip(inputs[~held_out], labels[~held_out]))
    self._held_out = list(zip(inputs[held_out], labels[held_out]))

  def train(self, batch_size, sequence_length, seed, process_index=0, process_count=1):
    rows = _rows(self._train, sequence_length)
    change = self._with_noise if self._noise else None
    return source.shuffled(rows, batch_size, seed, process_index, process_count, change)

  def evaluation(self, batch_size, sequence_length, process_index=0, process_count=1):
    rows = _rows(self._held_out, sequence_length)
    return source.in_order(rows, batch_size, process_index, process_count)

  def _with_noise(self, row, rng):
    noise = self._noise * rng.standard_normal((LENGTH, 1), np.float32)
    return row | {"inputs": row["inputs"] + noise}


def _rows(images, length: int) -> grain.MapDataset:
  if length != LENGTH:
    raise ValueError(f"digits needs sequence_length {LENGTH}; got {length}")
  rows = [source.classification_row(*image) for image in images]
  return grain.MapDataset.source(rows)
