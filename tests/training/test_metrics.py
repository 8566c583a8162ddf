import json
import types

from jaxseq import training

TRAIN = dict(loss=2.0, grad_norm=1.0, learning_rate=0.1, skipped=0, accuracy=0.5)


def writer(directory, **options):
  options = dict(total_steps=10, tokens_per_step=100) | options
  return training.MetricsWriter(directory, **options)


def steps(directory):
  return [m["step"] for m in training.read_metrics(directory / "metrics.jsonl")]


def test_lines_events_and_picture_are_written(tmp_path, capsys):
  with writer(tmp_path, bits_per_byte=True) as metrics:
    metrics.train(1, TRAIN)
    metrics.train(2, TRAIN)
    metrics.evaluation(2, dict(loss=1.0, accuracy=0.75))
  shown = capsys.readouterr().out
  assert "step 2/10  loss 2.0000  2.885 bits per byte" in shown and "ETA" in shown
  assert "held-out loss 1.0000  1.443 bits per byte  accuracy 75.0%" in shown
  lines = training.read_metrics(tmp_path / "metrics.jsonl")
  assert [m["split"] for m in lines] == ["train", "train", "held_out"]
  assert lines[0]["tokens_per_second"] > 0
  assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
  assert list((tmp_path / "tensorboard").glob("events*"))


def test_resuming_drops_what_was_measured_later_and_a_torn_line(tmp_path):
  with writer(tmp_path) as metrics:
    for n in (1, 2, 3):
      metrics.train(n, TRAIN)
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 4, "spl')
  assert steps(tmp_path) == [1, 2, 3]
  with writer(tmp_path, start=2) as metrics:
    assert steps(tmp_path) == [1, 2]
    metrics.train(3, TRAIN)
  assert steps(tmp_path) == [1, 2, 3]
  assert json.loads(path.read_text().splitlines()[-1])["step"] == 3


def test_the_speed_is_that_of_training_whenever_held_out_data_is_measured(
  tmp_path, monkeypatch
):
  clock = iter([0.0, 10.0, 115.0, 120.0])  # Ten steps, 5 and 100 s of evaluation, 5.
  fake = types.SimpleNamespace(perf_counter=lambda: next(clock))
  monkeypatch.setattr(training.metrics, "time", fake)
  with writer(tmp_path, total_steps=20) as metrics:
    metrics.train(10, TRAIN)
    metrics.evaluation(15, dict(loss=1.0))
    metrics.train(20, TRAIN)
  lines = training.read_metrics(tmp_path / "metrics.jsonl")
  speeds = [m["tokens_per_second"] for m in lines if m["split"] == "train"]
  assert speeds == [100.0, 100.0]


def test_tensorboard_drops_the_steps_after_the_one_resumed_from(tmp_path):
  from tensorboardX.proto import event_pb2

  with writer(tmp_path, start=7):
    pass
  (file,) = (tmp_path / "tensorboard").glob("events*")
  data, steps = file.read_bytes(), []
  while data:  # A record is its length in 8 bytes, 4 of checksum, itself, 4 more.
    size = int.from_bytes(data[:8], "little")
    event = event_pb2.Event.FromString(data[12 : 12 + size])
    steps += [event.step] if event.HasField("session_log") else []
    data = data[16 + size :]
  assert steps == [8]
