"""What the TPU compiler says of costs: rows, scaling, and mistakes told in a line."""

import json
import subprocess
import sys

import pytest
from absl import flags

from experiments import tpu_cost


def run(*given):
  command = [sys.executable, "-m", "experiments.tpu_cost", *given]
  return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_loops_and_calls_are_walked_as_often_as_they_run():
  program = """HloModule m

%body (x: (s32[])) -> (s32[]) {
  %once.1 = f32[8] fusion(%x), calls=%fused
}

%condition (x: (s32[])) -> pred[] {
  %bound = s32[] constant(7)
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[]) while(%a), condition=%condition, body=%body
  ROOT %last = f32[8] fusion(%w), calls=%fused
}
"""
  found = [(name, times) for name, _, times in tpu_cost.walk(program)]
  assert found == [("once.1", 7), ("last", 1)]


@pytest.mark.parametrize(
  ("given", "told"),
  [
    ((["nothing"], ["chunked"], [], ["v5e"]), "no op nothing; there are linear_att"),
    ((["mlstm"], ["pallas"], [], ["v5e"]), "mlstm has no form pallas; it has pallas_"),
    ((None, ["chunked"], [], ["v9"]), "no chip v9; there are v5e, v5p, v6e, tpu7x"),
    ((None, ["chunked"], ["fla"], ["v5e"]), "no peer fla; there are deltanet_tpu, tok"),
  ],
)
def test_what_there_is_not_is_told_with_what_there_is(given, told):
  with pytest.raises(ValueError, match=told):
    tpu_cost.checked(*given)


def test_without_a_choice_all_ops_that_have_the_form_are_compiled():
  assert "short_conv" in tpu_cost.checked(None, ["recurrent"], [], ["v5e"])
  assert "short_conv" not in tpu_cost.checked(None, ["chunked"], [], ["v5e"])


@pytest.mark.slow
def test_a_mistake_is_one_line():
  done = run("--forms=chunked", "--chips=v9")
  assert done.returncode == 2 and done.stdout == ""
  (line,) = done.stderr.splitlines()
  assert line == "error: no chip v9; there are v5e, v5p, v6e, tpu7x"


@pytest.mark.slow
def test_a_kernels_cycles_grow_with_its_grid_as_the_line_says(monkeypatch):
  pytest.importorskip("libtpu")
  flags.FLAGS(["tpu_cost"])
  kernel = ("short_conv", "pallas_tpu", (1, 2048, 16, 128, 128), "v5e", "forward")
  scaled = tpu_cost.cost(*kernel)
  assert scaled.keys() == {"cycles", "guess"} and scaled["cycles"] > 0
  monkeypatch.setattr(tpu_cost, "TOKENS", 2048)
  monkeypatch.setattr(tpu_cost, "HEADS", 16)
  assert scaled["cycles"] == pytest.approx(tpu_cost.cost(*kernel)["cycles"], rel=0.02)


@pytest.mark.slow
def test_a_row_has_cycles_a_floor_and_a_ratio(tmp_path):
  pytest.importorskip("libtpu")
  done = run(
    "--ops=short_conv",
    "--forms=pallas_tpu,parallel",
    "--shapes=B2T512H2D128",
    "--chips=v6e",
    f"--save={tmp_path / 'rows.json'}",
  )
  assert done.returncode == 0 and "not timings" in done.stdout, done.stderr
  first, second = json.loads((tmp_path / "rows.json").read_text())
  assert (first["by"], second["by"]) == ("pallas_tpu", "parallel")
  assert first["ratio"] == [1, 1] and all(r > 0 for r in second["ratio"])
  forward, both = first["cycles"]
  assert 0 < forward < both and 0 < first["floor"][0] < first["floor"][1]
