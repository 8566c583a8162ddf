import functools

import jax
import numpy as np
import pytest

from jaxseq.tasks import memory_updating
from jaxseq.tasks.memory_updating import (
  MemoryUpdatingConfig,
  NBackConfig,
  TaskSwitchingConfig,
)
from jaxseq.tasks.working_memory import ASK, BLANK, ITEM, NO, YES

KEYS = jax.random.split(jax.random.key(0), 100)


def rows(batch, config, length):
  batch = jax.jit(batch, static_argnums=(1, 2))(KEYS, config, length)
  batch = {name: np.asarray(x) for name, x in batch.items()}
  np.testing.assert_array_equal(batch["weights"], batch["targets"] > 0)
  return list(zip(batch["inputs"].tolist(), batch["targets"].tolist()))


def test_an_item_is_compared_with_the_one_n_before_it():
  for inputs, targets in rows(memory_updating.n_back, NBackConfig(num_back=3), 20):
    same = [a == b for a, b in zip(inputs, inputs[3:])]
    assert targets == [BLANK] * 3 + [YES if s else NO for s in same]


def test_marks_are_where_the_arrows_lead():
  config = MemoryUpdatingConfig(set_size=3, num_boxes=5)
  moves = [(down, right) for down in range(3) for right in range(3)][1:]
  for inputs, targets in rows(memory_updating.memory_updating, config, 25):
    boxes, at = [], {}
    for box, shown in zip(inputs[0:20:2], inputs[1:20:2]):
      if box in at:
        row, column = at[box]
        down, right = moves[shown - ITEM - 9]
        at[box] = (row + down) % 3, (column + right) % 3
      else:
        boxes.append(box)
        at[box] = divmod(shown - ITEM, 3)
    assert inputs[20:22] == [BLANK, ASK] and len(boxes) == 3
    assert min(boxes) >= ITEM + 17 and sorted(inputs[22:]) == sorted(boxes)
    want = [ITEM + 3 * at[box][0] + at[box][1] for box in inputs[22:]]
    assert targets == [BLANK] * 22 + want


def test_marks_are_judged_by_the_rule_of_the_last_cue():
  config = TaskSwitchingConfig(num_rules=3, switch=0.3)
  cues = 0
  for inputs, targets in rows(memory_updating.task_switching, config, 30):
    rule, answers = None, []
    for token in inputs:
      if token < ITEM + 3:
        assert token - ITEM != rule
        rule = token - ITEM
        answers.append(BLANK)
        cues += 1
      else:
        answers.append(YES if format(token - ITEM - 3, "03b")[2 - rule] == "1" else NO)
    assert targets == answers
  assert abs(cues / 100 - (1 + 28 * 0.3)) < 1


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="n_back needs num_items >= 2; got 1"):
    NBackConfig(num_items=1)
  with pytest.raises(ValueError, match="memory_updating needs num_boxes >= 9; got 8"):
    MemoryUpdatingConfig(set_size=9, num_boxes=8)
  with pytest.raises(ValueError, match=r"switch in \[0, 1\); got 1"):
    TaskSwitchingConfig(switch=1.0)
  for batch, config, least in (
    (memory_updating.n_back, NBackConfig(), 3),
    (memory_updating.memory_updating, MemoryUpdatingConfig(), 13),
    (memory_updating.task_switching, TaskSwitchingConfig(), 2),
  ):
    jax.eval_shape(functools.partial(batch, config=config, length=least), KEYS)
    with pytest.raises(ValueError, match=f"sequence_length >= {least}; got"):
      batch(KEYS[:1], config, least - 1)
