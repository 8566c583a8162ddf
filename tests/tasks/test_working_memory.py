import dataclasses

import jax
import numpy as np
import pytest

from jaxseq import tasks
from jaxseq.tasks import working_memory
from jaxseq.tasks.working_memory import ASK, BLANK, HOLD, ITEM, NO, YES

N, n, d = 11, 4, 2


def serial_recall(study, probes):
  assert probes == [BLANK] * n and len(set(study)) == n
  return [BLANK] * n, study


def serial_recognition(study, probes):
  assert set(probes) <= set(study)
  return [BLANK] * n, [YES if a == b else NO for a, b in zip(study, probes)]


def free_recall(study, probes):
  assert sorted(probes) == list(range(ITEM, ITEM + N))
  return [BLANK] * n, [YES if p in study else NO for p in probes]


def item_recognition(study, probes):
  assert len(probes) == n
  return [BLANK] * n, [YES if p in study else NO for p in probes]


def change_detection(study, probes):
  changed = sum(a != b for a, b in zip(study, probes))
  assert changed <= 1
  return [BLANK] * n, [BLANK] * (n - 1) + [YES if changed else NO]


def feature_binding(study, probes):
  objects = set(zip(study[::2], study[1::2]))
  answers = []
  for pair in zip(probes[::2], probes[1::2]):
    assert pair[0] in study[::2] and pair[1] in study[1::2] and pair[1] >= ITEM + N
    answers += [BLANK, YES if pair in objects else NO]
  assert sorted(probes[::2]) == sorted(study[::2])
  return [BLANK] * 2 * n, answers


def spatial_coordination(study, probes):
  row = [ITEM + cell in study for cell in range(N)]
  assert sum(row) == n and probes == [BLANK]
  odd = sum(a != b for a, b in zip(row, row[::-1])) // 2
  assert odd in (0, 2)
  return [BLANK] * n, [NO if odd else YES]


def complex_span(study, probes):
  answers = [BLANK] * len(study)
  for k in range(n):
    for j in range(d):
      at = (2 * d + 1) * k + 1 + 2 * j
      assert min(study[at : at + 2]) >= ITEM + N
      answers[at + 1] = YES if study[at] == study[at + 1] else NO
  return answers, serial_recall(study[:: 2 * d + 1], probes)[1]


SOLVERS = {
  f.__name__: f
  for f in (
    *(serial_recall, serial_recognition, free_recall, item_recognition),
    *(change_detection, feature_binding, spatial_coordination, complex_span),
  )
}


@pytest.mark.parametrize("name", SOLVERS)
def test_answers_are_those_that_the_inputs_give(name):
  task = tasks.task(f"worm_{name}")
  more = dict(num_pairs=d) if name == "complex_span" else {}
  config = task.config(set_size=n, num_items=N, **more)
  length = 45
  keys = jax.random.split(jax.random.key(0), 100)
  batch = jax.jit(task.batch, static_argnums=(1, 2))(keys, config, length)
  batch = {field: np.asarray(x) for field, x in batch.items()}
  held = []
  for inputs, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist()):
    hold, ask = inputs.index(HOLD), inputs.index(ASK)
    held += inputs[hold + 1 : ask]
    begun, asked = SOLVERS[name](inputs[:hold], inputs[ask + 1 :])
    assert targets == begun + [BLANK] * (ask - hold + 1) + asked
  np.testing.assert_array_equal(batch["weights"], batch["targets"] > 0)
  # Half of the retention interval is items.
  assert set(held) == {BLANK, *range(ITEM, ITEM + N)}
  assert 0.4 < np.mean(np.array(held) == BLANK) < 0.6


def test_distractors_have_the_share_of_the_interval_that_is_asked_for():
  task = tasks.task("worm_serial_recall")
  config = task.config(set_size=2, num_items=4, distractors=0.0)
  keys = jax.random.split(jax.random.key(0), 3)
  held = lambda config: np.asarray(task.batch(keys, config, 20)["inputs"])[:, 3:-3]
  assert (held(config) == BLANK).all()
  assert (held(dataclasses.replace(config, distractors=1.0)) >= ITEM).all()


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="2 <= set_size < num_items; got 4 and 4"):
    working_memory.WorkingMemoryConfig(set_size=4, num_items=4)
  with pytest.raises(ValueError, match=r"distractors in \[0, 1\]; got 2"):
    working_memory.WorkingMemoryConfig(distractors=2)
  with pytest.raises(ValueError, match="spatial_coordination needs an even set_size"):
    working_memory.SpatialCoordinationConfig(set_size=5)
  with pytest.raises(ValueError, match="complex_span needs num_pairs >= 0; got -1"):
    working_memory.ComplexSpanConfig(num_pairs=-1)
  keys, config = jax.random.split(jax.random.key(0), 1), working_memory.SerialRecallConfig()
  recall = dict(trial=working_memory.serial_recall)
  with pytest.raises(ValueError, match="recall needs sequence_length >= 14; got 13"):
    working_memory.batch(keys, config, 13, **recall)
  assert (working_memory.batch(keys, config, 14, **recall)["inputs"][0, 7] == ASK).all()
