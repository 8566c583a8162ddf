"""The battery, from its flags to its page."""

import dataclasses
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from experiments.battery import __main__ as battery
from experiments.battery import cells, cost, pictures, report, sizes, table
from jaxseq import registry, tasks

RESULTS = pathlib.Path(battery.__file__).parent / "results.csv"
TINY = dataclasses.replace(
  sizes.SMALLEST,
  **dict(features=8, num_layers=1, num_heads=1, vocab_size=8, batch_size=4),
  **dict(length=8, longer=(), max_length=8, steps=4, steps_per_call=2),
  held_out_batches=1,
  levels=dict(parity=(sizes.level("bits", 8, (12,)),)),
)


@pytest.fixture(scope="module")
def rows():
  return table.read_csv(RESULTS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A folder with one cell that was run, and one that failed."""
  results = table.Table(tmp_path_factory.mktemp("battery"))
  todo = [
    cells.Cell("gla", "parity", TINY, options={"num_bananas": 3}, label="wrong"),
    cells.Cell("sru", "parity", TINY),
  ]
  battery.run(todo, results)
  return results, todo


def test_a_cell_that_fails_is_written_down_and_the_next_one_runs(finished):
  results, (wrong, right) = finished
  failed, *done = sorted(results.rows(), key=lambda r: r["status"] == "done")
  assert failed["mixer"] == "wrong"
  assert failed["status"].startswith("failed: ValueError: gla has no attribute num_ban")
  assert {r["mixer"] for r in done} == {"sru"} and failed.keys() < set(cells.COLUMNS)
  assert failed["status"].startswith(report.line([failed]))


def test_rows_have_all_columns_rates_seeds_and_lengths(finished):
  results, _ = finished
  done = [r for r in results.rows() if r["status"] == "done"]
  assert all(r.keys() == set(cells.COLUMNS) for r in done)
  members = {(r["seed"], r["learning_rate"], r["length"]) for r in done}
  assert len(done) == len(members) == 2 * 2 * 2
  assert len({r["learning_rate"] for r in done if r["best"]}) == 1
  for row in done:
    assert row["score"] == pytest.approx((row["value"] - 0.5) / 0.5)
    assert row["state_bytes"] == 8 * 4  # One layer of 8 numbers.
    assert row["question"] == ("trained" if row["length"] == 8 else "longer")


def test_a_battery_goes_on_where_it_stopped(finished, capsys):
  results, (wrong, right) = finished
  more = cells.Cell("elman", "parity", TINY)
  assert battery.unfinished([wrong, right, more], results) == [more]
  assert capsys.readouterr().out == "2 of 3 cells are there already\n"
  assert battery.unfinished([wrong, right], results, retry_failed=True) == [wrong]


def test_other_settings_are_not_mixed_in(finished):
  results, (_, right) = finished
  other = dataclasses.replace(right, size=dataclasses.replace(TINY, steps=6))
  with pytest.raises(ValueError, match=r"sru--parity.json .* size.steps: 4 -> 6; give"):
    battery.unfinished([other], results)
  # Neither the other tasks nor their levels are a setting of a cell.
  fewer = dataclasses.replace(TINY, tasks=())
  assert not battery.unfinished([dataclasses.replace(right, size=fewer)], results)


def test_the_same_cell_gives_the_same_rows(finished):
  results, (_, right) = finished
  again = cells.run(right, cells.Programs(), cells.Programs())
  value = lambda rows: [r["value"] for r in rows if r["mixer"] == "sru"]
  assert value(again) == value(results.rows())


def test_what_the_table_holds_can_be_read_again(finished, tmp_path):
  results, _ = finished
  table.write_csv(tmp_path / "results.csv", results.rows())
  again = table.read_csv(tmp_path / "results.csv")
  for row, read in zip(results.rows(), again):
    for name in cells.COLUMNS:
      want = row.get(name, "" if name in table.TEXTS else None)
      near = pytest.approx(want, rel=1e-3) if isinstance(want, float) else want
      assert read[name] == near, name


@pytest.mark.parametrize(
  "mixers, names, shard, message",
  [
    (["glo"], ["parity"], "0/1", "'glo'; did you mean gla"),
    (["gla"], ["pariti"], "0/1", "'pariti'; did you mean parity"),
    (["gla"], ["parity"], "2/2", "shard must be i/n with i < n; got 2/2"),
    (["fnet"], ["parity"], "0/1", "fnet see the tokens to come"),
  ],
)
def test_flags_that_cannot_be_are_refused_with_what_is_there(
  mixers, names, shard, message
):
  with pytest.raises(ValueError, match=message):
    battery.plan(TINY, mixers, names, shard)


def test_a_task_that_does_not_fit_the_size_is_refused():
  size = dataclasses.replace(TINY, levels=dict(mqar=(sizes.level("many", 8),)))
  with pytest.raises(ValueError, match="size smallest cannot ask mqar at 'many'"):
    battery.plan(size, ["gla"], ["mqar"])


def test_shards_share_the_mixers_out():
  of = lambda shard: battery.plan(sizes.SMALLEST, ["all"], ["parity"], shard)
  shares = [{cell.mixer for cell in of(f"{i}/3")} for i in range(3)]
  causal = {name for name, entry in registry.MIXERS.items() if entry.causal}
  assert set.union(*shares) == causal and sum(map(len, shares)) == len(causal)


@pytest.mark.parametrize("size", sizes.SIZES)
def test_every_task_fits_every_size(size):
  for name in tasks.TASKS:
    sizes.check(sizes.SIZES[size], name)
  assert sizes.SIZES[size].levels.keys() == tasks.TASKS.keys()


def test_the_page_holds_each_mixer_and_task(rows):
  failed = dict(rows[0], mixer="mamba", task="parity", status="failed: Boom: <too big>")
  page = report.page([*rows, failed], dict(flags="--size=<none>"))
  for name in {r["mixer"] for r in rows}:
    assert f">{name}<" in page
  for name in {r["task"] for r in rows}:
    assert f">{name.replace('_', ' ')}<" in page
  assert "Boom: &lt;too big&gt;" in page and "arxiv.org/abs/2312.06635" in page
  # It opens without a network: links alone point outwards.
  assert page.count("<svg") == 4 and "<script" not in page and "<link" not in page
  outside = set(re.findall(r'(?:src|href)="(http[^"]*)"', page))
  assert all(url.startswith("https://arxiv.org/abs/") for url in outside)


def test_the_best_rate_is_reported_and_not_the_best_run():
  row = dict(mixer="gla", task="parity", ability="state tracking", status="done")
  row |= dict(question="trained", difficulty="bits", length=8.0, score=0.0)
  lucky = [row | dict(best=0, value=1.0), row | dict(best=0, value=0.1)]
  steady = [row | dict(best=1, value=0.8, score=0.6), row | dict(best=1, value=0.7)]
  (answer,) = pictures.answers(lucky + steady).values()
  assert (answer["value"], answer["low"], answer["high"]) == (0.75, 0.7, 0.8)
  assert pictures.overall(lucky + steady) == {"gla": 0.3}


def test_loops_cost_as_often_as_they_run():
  def loop(x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=10)[0]

  assert cost.flops(loop, jnp.ones((4, 4))) == 10 * (2 * 4**3 + 4**2)
  pick = lambda x: jax.lax.cond(x[0, 0] > 0, loop, lambda x: x, x)
  assert cost.flops(pick, jnp.ones((4, 4))) == cost.flops(loop, jnp.ones((4, 4))) + 1


def test_a_growing_state_is_counted_at_the_length_asked():
  size = lambda name, T: cells.state_bytes(
    cells.model(cells.Cell(name, "parity", TINY), TINY.levels["parity"][0]), name, T
  )
  assert size("attention", 24) - size("attention", 12) == 12 * 2 * 8 * 4
  assert size("gla", 24) == size("gla", 12)


def test_cells_are_named_after_mixer_and_task(finished):
  results, (_, right) = finished
  found = json.loads(results.path(right).read_text())
  assert found["settings"]["mixer"] == "sru" and found["seconds"] > 0
  assert results.settings()["steps"] == 4
