"""Any data set of TensorFlow Datasets, read through `tfds.data_source`.

TensorFlow itself is not used. The data must have been prepared as array_record files:

    builder = tfds.builder(NAME, data_dir=FOLDER, file_format="array_record")
    builder.download_and_prepare()

The other format with random access, parquet, is refused: TFDS 4.9.10 leaves examples
out when it writes one, and reads all of it whatever part of a split is asked for.
"""

import dataclasses
import difflib

import grain
import numpy as np

from jaxseq.data import lanes, source, text

__all__ = ["TFDSConfig", "TFDSImages", "TFDSText", "make"]


@dataclasses.dataclass(frozen=True)
class TFDSConfig:
  """Which data set, and what of it.

  Attributes:
    dataset: Its name, such as "lm1b" or "wikipedia/20230601.en:1.0.0".
    data_dir: The folder that it was prepared in. "" is that of TFDS.
    feature: What is read of each example: a text, for a language model over its bytes;
      or, where there is a label, an image of fixed shape, whose pixels are the tokens.
    label: The feature that is the class of the image. "" for a text.
    train_split: In the language of TFDS, such as "train[:90%]".
    evaluation_split: Likewise.
    limit_bytes: The first so many held-out bytes of text are evaluated. 0 is all, which
      are then all read at the start.
  """

  dataset: str = ""
  data_dir: str = ""
  feature: str = "text"
  label: str = ""
  train_split: str = "train"
  evaluation_split: str = "validation"
  limit_bytes: int = 1 << 20

  def __post_init__(self):
    text.check_limit("tfds", self.limit_bytes)
    for name in ("dataset", "feature", "train_split", "evaluation_split"):
      if not getattr(self, name):
        raise ValueError(f"tfds needs {name}, a name; got ''")


def make(config: TFDSConfig) -> source.Source:
  """A classification if there is a label, else a language model."""
  return TFDSImages(config) if config.label else TFDSText(config)


class TFDSText(text.ByteSource):
  """The bytes of a text, packed. An example is a document."""

  def __init__(self, config: TFDSConfig):
    """Opens the data set and reads what is held out.

    Raises:
      ValueError: If the data set, a split or the feature is not there.
    """
    self._train = _documents(config, config.train_split)
    rest = _documents(config, config.evaluation_split)
    # A generator, of which no more is read than the limit.
    super().__init__((rest[i] for i in range(len(rest))), config.limit_bytes)

  def train(self, batch_size, sequence_length, seed, process_index=0, process_count=1):
    count = source.rows_per_process(batch_size, process_index, process_count)
    text.check_length(sequence_length)
    rows = range(process_index * count, (process_index + 1) * count)
    documents = source.endless(self._train, seed)
    return iter(lanes.Lanes(documents, batch_size, sequence_length, text.BOS, rows))


class TFDSImages(source.Source):
  """Images as sequences of their pixels, row by row: [B, height width, channels]."""

  def __init__(self, config: TFDSConfig):
    """Opens the data set.

    Raises:
      ValueError: If the data set, a split or a feature is not there or of another kind.
    """
    self._config = config
    self._train = _open(config, config.train_split)
    self._held_out = _open(config, config.evaluation_split)
    features = self._train.dataset_info.features
    shape = features[config.feature].shape
    self.num_outputs = getattr(features[config.label], "num_classes", None)
    if self.num_outputs is None:
      raise ValueError(f"tfds needs label to be a class; {config.label!r} is none")
    if len(shape) != 3 or None in shape:
      raise ValueError(
        f"tfds needs feature {config.feature!r} of a fixed shape (height, width, "
        f"channels); got {shape}"
      )
    self._length, self.num_inputs = shape[0] * shape[1], shape[2]

  def train(self, batch_size, sequence_length, seed, process_index=0, process_count=1):
    rows = self._rows(self._train, sequence_length)
    return source.shuffled(rows, batch_size, seed, process_index, process_count)

  def evaluation(self, batch_size, sequence_length, process_index=0, process_count=1):
    rows = self._rows(self._held_out, sequence_length)
    return source.in_order(rows, batch_size, process_index, process_count)

  def _rows(self, examples, length: int) -> grain.MapDataset:
    if length != self._length:
      raise ValueError(
        f"{self._config.dataset} needs sequence_length {self._length}, "
        f"its pixels; got {length}"
      )
    return grain.MapDataset.source(examples).map(self._row)

  def _row(self, example) -> dict[str, np.ndarray]:
    pixels = example[self._config.feature].reshape(self._length, self.num_inputs)
    scale = 255 if pixels.dtype == np.uint8 else 1
    return source.classification_row(pixels / scale, example[self._config.label])


def _documents(config: TFDSConfig, split: str) -> grain.MapDataset:
  examples = _open(config, split)
  kind = examples.dataset_info.features[config.feature].np_dtype
  if kind not in (np.object_, np.str_):
    raise ValueError(
      f"tfds needs feature {config.feature!r} to be a text, or else a label; "
      f"it holds {np.dtype(kind)}"
    )
  read = lambda example: np.frombuffer(example[config.feature], np.uint8)
  return grain.MapDataset.source(examples).map(read)


def _open(config: TFDSConfig, split: str):
  """The examples of a split, by number."""
  import tensorflow_datasets as tfds  # Slow, and other sources need not wait for it.

  where = f"{config.dataset!r} in {config.data_dir or 'the data_dir of TFDS'}"
  try:
    builder = tfds.builder(config.dataset, data_dir=config.data_dir or None)
    features = sorted(builder.info.features)
    missing = {config.feature, config.label} - {"", *features}
    if missing:
      raise ValueError(f"no feature {missing.pop()!r}; it has {features}")
    if not builder.is_prepared():
      raise ValueError(f"it is not prepared; there is nothing at {builder.data_path}")
    return builder.as_data_source(split, file_format="array_record")
  except tfds.core.registered.DatasetNotFoundError as error:
    known = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(config.dataset, known)
    raise ValueError(
      f"tfds has no data set {where}, nor one of that name to prepare; near are {near}"
    ) from error
  except (AssertionError, ImportError, NotImplementedError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise ValueError(f"tfds cannot read {split!r} of {where}: {reason}") from error
