"""What every registered source promises."""

import itertools
import json

import numpy as np
import pytest

from jaxseq import data, tasks

KINDS = (
  *("bytes", "tfds text", "tfds images", "digits"),
  *("mqar", "parity", "selective copying", "induction heads"),
  "arrow pointing",
)
BATCH = 4


@pytest.fixture(params=KINDS)
def source(request, fields):
  """A source, with the rest of the arguments of `train` after the batch size."""
  made, length = fields[request.param]
  return data.make(**made), length


def take(batches, count):
  return list(itertools.islice(batches, count))


def assert_same(got, want):
  assert len(got) == len(want)
  for a, b in zip(got, want):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def joined(parts):
  """Batches of each process -> global batches."""
  return [
    {name: np.concatenate([part[name] for part in step]) for name in step[0]}
    for step in zip(*parts, strict=True)
  ]


def test_every_registered_source_is_tested_here(fields):
  """The tasks are one kind of source; tests/tasks tests each of them."""
  tested = {made["name"] for made, _ in fields.values()}
  assert set(data.SOURCES) - tested <= set(tasks.TASKS)


def test_a_batch_has_the_shapes_and_dtypes_that_are_promised(source):
  source, length = source
  for batch in (
    next(source.train(BATCH, length, 0)),
    next(iter(source.evaluation(BATCH, length))),
  ):
    classes = source.num_outputs is not None
    shapes = dict(inputs=(BATCH, length), targets=(BATCH,) if classes else None)
    shapes["segment_ids"] = (BATCH, length)
    if source.vocab_size is None:
      shapes["inputs"] += (source.num_inputs,)
    shapes["targets"] = shapes["weights"] = shapes["targets"] or (BATCH, length)
    assert {name: x.shape for name, x in batch.items()} == shapes
    real = source.vocab_size is None
    kinds = dict(inputs=np.float32 if real else np.int32, weights=np.float32)
    for name, x in batch.items():
      assert type(x) is np.ndarray and x.dtype == kinds.get(name, np.int32), name
    assert batch["weights"].any() and set(np.unique(batch["weights"])) <= {0, 1}
    assert not batch["weights"][batch["segment_ids"].max(-1) == 0].any()


def test_batches_depend_on_the_seed_alone(source):
  source, length = source
  first = take(source.train(BATCH, length, 3), 5)
  assert_same(take(source.train(BATCH, length, 3), 5), first)
  other = take(source.train(BATCH, length, 4), 5)
  assert any((a["inputs"] != b["inputs"]).any() for a, b in zip(first, other))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_global_batch_out(source, count):
  source, length = source
  parts = [take(source.train(BATCH, length, 1, p, count), 6) for p in range(count)]
  assert_same(joined(parts), take(source.train(BATCH, length, 1), 6))
  parts = [list(source.evaluation(BATCH, length, p, count)) for p in range(count)]
  assert_same(joined(parts), list(source.evaluation(BATCH, length)))


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(source):
  source, length = source
  whole = take(source.train(BATCH, length, 2), 30)
  for stop in np.random.default_rng(length).integers(0, 25, 3):
    batches = source.train(BATCH, length, 2)
    assert_same(take(batches, stop), whole[:stop])
    state = json.loads(json.dumps(batches.get_state()))
    again = source.train(BATCH, length, 2)
    take(again, 3)  # A state replaces whatever the iterator has read.
    again.set_state(state)
    assert_same(take(again, 5), whole[stop : stop + 5])
    assert again.get_state() != state


def test_a_run_resumes_on_another_number_of_processes(source):
  source, length = source
  whole = take(source.train(BATCH, length, 2), 12)
  old = source.train(BATCH, length, 2, 1, 2)
  take(old, 7)
  for count in (1, 2, 4):
    new = [source.train(BATCH, length, 2, p, count) for p in range(count)]
    for batches in new:
      batches.set_state(old.get_state())
    assert_same(joined([take(batches, 5) for batches in new]), whole[7:])


def test_the_evaluation_can_be_run_again_and_ends_with_rows_of_no_weight(source):
  source, length = source
  batches = source.evaluation(BATCH, length)
  first = list(batches)
  assert_same(list(batches), first)
  single = list(source.evaluation(1, length))
  total = len(single)
  assert len(first) == -(-total // BATCH)
  weights = np.concatenate([b["weights"] for b in first])
  np.testing.assert_array_equal(
    weights[:total], np.concatenate([b["weights"] for b in single])
  )
  assert not weights[total:].any() and weights[total - 1].any()


def test_sizes_that_do_not_fit_are_refused_at_once(source):
  source, length = source
  for method in (lambda *a: source.train(*a[:2], 0, *a[2:]), source.evaluation):
    with pytest.raises(ValueError, match="multiple of the 3 processes; got 4"):
      method(BATCH, length, 0, 3)
    with pytest.raises(ValueError, match="process_index"):
      method(BATCH, length, 2, 2)
    with pytest.raises(ValueError, match="sequence_length"):
      method(BATCH, 0)


def test_a_negative_seed_is_refused(source):
  source, length = source
  with pytest.raises(ValueError, match="seed must be at least 0; got -1"):
    source.train(BATCH, length, -1)


@pytest.mark.parametrize(
  "fields, message",
  [
    (dict(name="byts"), "no source is called 'byts'; did you mean bytes"),
    (dict(name="bytes", pth="x"), "field of the source 'bytes' .* did you mean path?"),
    (dict(name="bytes", limit_bytes=-1), "bytes needs limit_bytes >= 0; got -1"),
    (dict(name="digits", zzz=1), r"there are \['permuted', 'noise'\]"),
    (dict(name="tfds"), "tfds needs dataset"),
    (dict(name="mqar", num_pairs=0), "mqar needs num_pairs >= 1; got 0"),
    (dict(name="mqar", vocab_size=9, num_pairs=4), "vocab_size >= .* 10, .* got 9"),
  ],
)
def test_a_wrong_config_is_one_line_that_says_what_is_needed(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    data.make(**fields)
  assert "\n" not in str(error.value)
