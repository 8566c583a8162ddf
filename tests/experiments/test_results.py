import json
import pathlib
import runpy

import pytest

from experiments import results

CONFIGS = pathlib.Path(__file__).parents[2] / "experiments" / "configs"


@pytest.fixture
def run(tmp_path):
  """Makes the folder of a run that ended with some accuracy."""

  def make(name, accuracy, **data):
    c = runpy.run_path(CONFIGS / "mqar.py")["get_config"]()
    c.mixer, c.total_steps = "retnet", 100
    c.data.update(data)
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(c.to_json())
    train = dict(split="train", tokens_per_second=c.batch_size * c.sequence_length / 3)
    lines = [dict(step=step, **train) for step in (50, 100)]
    lines.append(dict(step=100, split="held_out", loss=0.5, accuracy=accuracy))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in lines))
    return folder

  return make


def test_a_row_says_what_was_trained_and_how_well(run):
  row = results.row(run("one", 0.875))
  assert row["data"] == "mqar num_pairs=4 vocab_size=256" and row["mixer"] == "`retnet`"
  assert (row["steps"], row["batch"]) == ("100", "64 x 64")
  assert (row["held out"], row["minutes"]) == ("87.5%", "5.0")  # 3 s a step.


def test_the_best_run_of_the_same_data_comes_first(run):
  runs = [run("a", 0.5), run("b", 0.75), run("c", 0.9, num_pairs=2)]
  _, line, *rows = results.table(runs).splitlines()
  assert set(line) <= set("| -")
  assert [r.split(" | ")[8] for r in rows] == ["90.0%", "75.0%", "50.0%"]
  assert "num_pairs=2" in rows[0]
