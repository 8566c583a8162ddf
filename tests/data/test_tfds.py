import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxseq import data


@pytest.fixture
def make(tfds_folder):
  def make(**fields):
    known = dict(dataset="small_texts", data_dir=str(tfds_folder))
    return data.make("tfds", **known | fields)

  return make


def texts(source, split):
  return [bytes(example["text"]) for example in _examples(source, split)]


def _examples(tfds_folder, split):
  import tensorflow_datasets as tfds

  return tfds.data_source(
    "small_texts", split=split, data_dir=tfds_folder, download=False
  )


def test_the_held_out_split_is_evaluated_byte_by_byte(make, tfds_folder):
  source = make()
  want = b"".join(texts(tfds_folder, "validation"))
  assert source.held_out_bytes() == want
  got = b"".join(
    batch["targets"][batch["weights"] > 0].astype(np.uint8).tobytes()
    for batch in source.evaluation(4, 9)
  )
  assert got == want
  assert make(limit_bytes=37).held_out_bytes() == want[:37]
  assert make(evaluation_split="validation[:50%]").held_out_bytes() == b"".join(
    texts(tfds_folder, "validation[:50%]")
  )


def test_lanes_read_every_document_once_an_epoch_in_pieces(make, tfds_folder):
  """With one lane the stream of targets is the documents, in the order of epochs."""
  documents = sorted(d for d in texts(tfds_folder, "train") if d)
  total = sum(map(len, documents))
  rows = [next(batches) for batches in [make().train(1, 7, 0)] for _ in range(total)]
  ids, targets = (
    np.concatenate([r[n][0] for r in rows]) for n in ("inputs", "targets")
  )
  starts = np.flatnonzero(ids == data.BOS)
  stream = targets.astype(np.uint8).tobytes()
  found = [stream[a:b] for a, b in zip(starts, starts[1:])]
  for epoch in range(6):
    part = found[epoch * len(documents) : (epoch + 1) * len(documents)]
    assert sorted(part) == documents
  assert found[: len(documents)] != found[len(documents) : 2 * len(documents)]
  for row in rows:
    assert row["weights"].all() and row["segment_ids"][0, 0] == 1
    rises = np.diff(row["segment_ids"][0])
    np.testing.assert_array_equal(rises, row["inputs"][0, 1:] == data.BOS)


def test_lanes_continue_from_row_to_row(make):
  batches = [next(b) for b in [make().train(3, 7, 5)] for _ in range(20)]
  for before, after in zip(batches, batches[1:]):
    goes_on = after["inputs"][:, 0] != data.BOS
    assert (after["inputs"][:, 0] == before["targets"][:, -1])[goes_on].all()


def test_images_are_sequences_of_pixels_with_their_class(make, tfds_folder):
  source = make(feature="image", label="label")
  assert (source.num_inputs, source.num_outputs, source.vocab_size) == (1, 3, None)
  want = _examples(tfds_folder, "validation")
  batches = list(source.evaluation(3, 12))
  inputs = np.concatenate([b["inputs"] for b in batches])
  labels = np.concatenate([b["targets"] for b in batches])
  assert len(inputs) == len(want) == 9
  for x, label, example in zip(inputs, labels, want):
    np.testing.assert_allclose(x, example["image"].reshape(12, 1) / 255, rtol=1e-6)
    assert label == example["label"]
  assert 0 < inputs.max() <= 1 and set(labels) == {0, 1, 2}


@pytest.mark.parametrize(
  "fields, message",
  [
    (dict(dataset="lm1c"), "no data set 'lm1c' in .*; near are .*'lm1b'"),
    (dict(dataset="mnist", feature="image", label="label"), "is not prepared; .*mnist"),
    (dict(feature="txt"), "no feature 'txt'; it has .*'text'"),
    (dict(train_split="trian"), "'trian' .*Should be one of .*train"),
    (dict(evaluation_split="test"), "'test' .*Should be one of .*validation"),
    (dict(feature="image"), "feature 'image' to be a text, or else a label"),
    (dict(label="label"), "'text' of a fixed shape"),
    (dict(feature="image", label="image"), "label to be a class; 'image' is none"),
  ],
)
def test_what_is_not_there_is_named_in_one_line(make, fields, message):
  with pytest.raises(ValueError, match=message) as error:
    make(**fields)
  assert "\n" not in str(error.value)


def test_files_of_a_format_that_loses_examples_are_refused(tfds_folder, tmp_path):
  """What TFDS leaves when it prepares parquet files, as far as it is looked at."""
  shutil.copytree(tfds_folder / "small_texts", tmp_path / "small_texts")
  for path in (tmp_path / "small_texts" / "1.0.0").iterdir():
    path.rename(path.with_name(path.name.replace("array_record", "parquet")))
  info = tmp_path / "small_texts" / "1.0.0" / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "parquet"))
  with pytest.raises(ValueError, match="ARRAY_RECORD is not available"):
    data.make("tfds", dataset="small_texts", data_dir=str(tmp_path))


def test_images_have_one_length(make):
  source = make(feature="image", label="label")
  with pytest.raises(ValueError, match="small_texts needs sequence_length 12.*got 13"):
    source.train(2, 13, 0)


def test_a_program_reads_without_tensorflow_and_ends_while_reading(tfds_folder):
  program = (
    "import sys; from jaxseq import data;"
    f"s = data.make('tfds', dataset='small_texts', data_dir={str(tfds_folder)!r});"
    "batches = s.train(2, 9, 0); next(batches); next(iter(s.evaluation(2, 9)));"
    "sys.exit('tensorflow' in sys.modules or not s.held_out_bytes())"
  )
  command = [sys.executable, "-c", program]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0 and "Exception ignored" not in done.stderr, done.stderr
