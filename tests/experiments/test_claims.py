"""The claims: what they run, how they are judged, and what is shown of them."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.battery import __main__ as battery
from experiments.battery import cells, claims, outcomes, report, sizes
from jaxseq import tasks
from jaxseq.tasks import linear_regression

SMALLEST = sizes.SIZES["smallest"]
TINY = dataclasses.replace(
  SMALLEST, features=16, batch_size=4, steps=2, steps_per_call=2, held_out_batches=1
)


def made(name, value, size=SMALLEST):
  """Rows of a claim as if it had run; `value` is of label, difficulty and times."""
  claim = claims.claim(name, size)
  rows = []
  for cell in claim.cells:
    for level in cell.size.of(cell.task):
      for question, difficulty, _, length in level.questions():
        row = dict(mixer=cell.name, task=cell.task, trained_length=level.length)
        row |= dict(question=question, length=length, metric="accuracy", best=1)
        row |= dict(status="done", score=0.0, chance=0.5, device="cpu", seed=0)
        row |= dict(state_bytes=64, parameters=9, learning_rate=0.1)
        for probe in (None, *cell.probes):
          asked = difficulty if probe is None else f"{difficulty}: {probe}"
          at = value(cell.name, asked, length / level.length)
          rows.append(row | dict(difficulty=asked, value=at))
  return claim, rows


# By claim: numbers that bear it out, and by the condition that fails, numbers that do
# not. Each is a function of label, difficulty and length, as a multiple.
BORNE_OUT = {
  "copying": lambda x, *_: {"N=1": 0.3, "N=2": 0.5, "N=4": 0.8}.get(x[-3:], 1.0),
  "recall": lambda x, *_: 0.9 if "delta" in x else 0.5,
  "negative_eigenvalues": lambda x, _, n: 0.5 if n == 4 and "(0, 1)" in x else 1.0,
  "householders_s3": lambda x, *_: 0.5 if "n=1" in x else 1.0,
  "householders_s5": lambda x, *_: 0.5 if "n=1" in x else 1.0,
  "selective_copying": lambda x, *_: 1.0 if x == "mamba" else 0.4,
  "illusion_of_state": lambda x, *_: 1.0 if x == "lstm" else 0.3,
  "gradient_descent": lambda _, asked, __: 0.1 if "Bayes" in asked else 0.001,
  "smoothing": lambda x, *_: 0.001 if x == "mamba" else 0.1,
  "reading_twice": lambda x, *_: 0.4 if x == "larger first" else 0.9,
  "state_collapse": lambda _, asked, n: n if "spread" in asked else 0.01 * n,
}
NOT = {
  "copying": lambda x, *_: {"N=1": 0.3, "N=2": 0.2, "N=4": 0.8}.get(x[-3:], 1.0),
  "recall": lambda x, *_: 0.9 if x != "gla" else 0.5,
  "negative_eigenvalues": lambda *_: 1.0,
  "householders_s3": lambda x, _, n: 0.5 if n == 2 else 1.0,
  "householders_s5": lambda *_: 0.95,
  "selective_copying": lambda *_: 0.4,
  "illusion_of_state": lambda x, *_: 0.7 if x == "s4" else 1.0,
  "gradient_descent": lambda *_: 0.001,
  "smoothing": lambda *_: 0.001,
  "reading_twice": lambda x, *_: 0.9 if x == "smaller first" else 0.4,
  "state_collapse": lambda _, asked, n: 1.0 if "spread" in asked else 0.01 * n,
}


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_numbers_decide(name):
  claim, rows = made(name, BORNE_OUT[name])
  outcome = outcomes.judge(claim, rows)
  assert outcome["outcome"] == "reproduced", outcome["conditions"]
  assert len(outcome["conditions"]) == len(claim.conditions) >= 2
  outcome = outcomes.judge(*made(name, NOT[name]))
  assert outcome["outcome"] == "not reproduced"
  assert outcomes.line(outcome).startswith(f"NOT REPRODUCED  {name} (")


@pytest.mark.parametrize("size", sizes.SIZES)
@pytest.mark.parametrize("name", claims.CLAIMS)
def test_cells_can_be_built_and_have_names_of_their_own(name, size):
  claim = claims.claim(name, sizes.SIZES[size])
  assert claim.name == name and claim.says.endswith(".") and claim.papers
  for cell in claim.cells:
    nets = [cells.model(cell, level) for level in cell.size.of(cell.task)]
    assert len(set(nets)) == 1 and "/" not in cell.name
    cell.settings()
  assert len({cell.name for cell in claim.cells}) == len(claim.cells)


@pytest.mark.parametrize("size", sizes.SIZES)
def test_recall_is_compared_at_states_of_equal_size(size):
  held = []
  for cell in claims.claim("recall", sizes.SIZES[size]).cells:
    (level,) = cell.size.of(cell.task)
    net = cells.model(cell, level)
    held.append(cells.state_bytes(net, cell.mixer, level.length))
  assert max(held) <= 1.15 * min(held)


def test_linear_attention_can_be_one_step_of_gradient_descent():
  config = linear_regression.LinearRegressionConfig(
    num_dims=3, condition_number=4.0, paired=True, optimum="one_step"
  )
  keys = jax.random.split(jax.random.key(0), 16)
  batch = linear_regression.batch(keys, config, 13)
  step = linear_regression.best_step(config, 12)
  params = dict(
    KQ=dict(kernel=jnp.diag(jnp.append(step, 0))),
    PV=dict(kernel=jnp.diag(jnp.array([0.0, 0, 0, 1]))),
  )
  outputs, _ = claims.LinearSelfAttention().apply({"params": params}, batch["inputs"])
  apart = tasks.measure("squared_error", outputs, batch)
  assert apart < 1e-10 < 1e-2 < tasks.chance("squared_error", config, batch)


def test_a_claim_runs_goes_on_and_is_written_down(tmp_path, capsys):
  ((claim, left),) = battery.plan_claims(TINY, ["gradient_descent"], tmp_path)
  assert left == list(claim.cells)
  small = dataclasses.replace(left[0].size, steps=2)
  claim = dataclasses.replace(claim, cells=(dataclasses.replace(left[0], size=small),))
  battery.run_claim(claim, list(claim.cells), tmp_path)
  said = capsys.readouterr().out
  assert "NOT REPRODUCED  gradient_descent (2212.07677, 2306.09927)" in said
  assert "NO   squared difference from the best step <= 1% of its variance" in said
  (outcome,) = outcomes.read(tmp_path)
  assert len(outcome["numbers"]) == 4 and outcome["size"] == "smallest"
  results = outcomes.results(tmp_path, claim.name)
  assert battery.unfinished(list(claim.cells), results) == []
  with pytest.raises(ValueError, match="linear self-attention--linear_regression.json"):
    battery.plan_claims(TINY, ["gradient_descent"], tmp_path)


def test_probes_are_measured_at_each_length():
  size = dataclasses.replace(TINY, levels=dict(parity=(sizes.level("bits", 8, (12,)),)))
  count = lambda outputs, batch: jnp.float32(batch["inputs"].shape[1])
  cell = cells.Cell("sru", "parity", size, probes={"tokens": count})
  rows = cells.run(cell, cells.Programs(), cells.Programs())
  probed = [r for r in rows if r["question"] == "probe"]
  assert len(rows) == 2 * len(probed) == 2 * 2 * len(size.rates) * len(size.seeds)
  for row in probed:
    assert row["value"] == row["length"] and row["score"] is row["chance"] is None
    assert row["metric"] == "tokens" and row["difficulty"] == "bits: tokens"
  assert outcomes.Measured(rows)("sru", "bits: tokens") == 8


def test_a_cell_that_fails_leaves_its_claim_undecided():
  claim, rows = made("smoothing", BORNE_OUT["smoothing"])
  failed = cells.failed(claim.cells[0], ValueError("boom <b>"))
  outcome = outcomes.judge(claim, [*rows[1:], failed])
  assert outcome["outcome"] == "could not run" and outcome["conditions"] == []
  assert "mamba: failed: ValueError: boom <b>" in outcomes.line(outcome)
  page = report.page([], judged=[outcome])
  assert "Could not run: smoothing" in page and "boom &lt;b&gt;" in page


def test_the_page_and_the_table_show_every_outcome(tmp_path):
  judged = [outcomes.judge(*made(name, BORNE_OUT[name])) for name in claims.CLAIMS]
  for outcome in judged:
    outcomes.results(tmp_path, outcome["claim"]).workdir.mkdir(parents=True)
    outcomes.write(tmp_path, outcome)
  assert sorted(judged, key=lambda o: o["claim"]) == [
    o | dict(conditions=[tuple(c) for c in o["conditions"]])
    for o in outcomes.read(tmp_path)
  ]
  page = report.page([], judged=judged)
  assert f"{len(judged)} of {len(judged)} are reproduced" in page
  for outcome in judged:
    assert outcome["claim"].replace("_", " ") in page
    for paper in outcome["papers"]:
      assert f'href="https://arxiv.org/abs/{paper}"' in page
  outcomes.write_csv(tmp_path / "claims.csv", judged)
  with open(tmp_path / "claims.csv", newline="") as file:
    table = list(csv.DictReader(file))
  assert {row["claim"] for row in table} == set(claims.CLAIMS)
  assert tuple(table[0]) == outcomes.COLUMNS and table[0]["outcome"] == "reproduced"
  assert np.isfinite([float(row["value"]) for row in table]).all()


def test_an_unknown_claim_is_refused_with_those_there_are():
  with pytest.raises(ValueError, match="'copyng'; there are .'copying', 'recall'"):
    claims.claim("copyng", SMALLEST)
