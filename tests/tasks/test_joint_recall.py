import jax
import numpy as np
import pytest

from jaxseq.tasks import joint_recall

CONFIG = joint_recall.JointRecallConfig(
  num_contexts=2, num_keys=3, num_values=4, max_contexts=3, max_keys=5
)
KEYS = jax.random.split(jax.random.key(0), 200)
make = jax.jit(joint_recall.batch, static_argnums=(1, 2))


@pytest.mark.parametrize("length", [28, 31])
def test_all_of_the_table_is_asked_for_and_answered(length):
  batch = jax.tree.map(np.asarray, make(KEYS, CONFIG, length))
  other_order = 0
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"].tolist(), batch["weights"]
  ):
    bar = inputs.index(13)
    table, answers, context, told, asked = {}, [0] * length, None, [], []
    for t, token in enumerate(inputs):
      if 9 <= token < 12:
        context = token
      elif 4 <= token < 9 and t < bar:
        table[context, token] = inputs[t + 1]
        told.append((context, token))
      elif 4 <= token < 9:
        answers[t] = table[context, token]
        asked.append((context, token))
        if t + 1 < length:
          assert inputs[t + 1] == answers[t]
    assert bar == 14 and len(table) == 6 and sorted(told) == sorted(asked)
    assert len({c for c, _ in table}) == 2 and len({k for _, k in table}) == 3
    assert targets == answers
    assert [t for t in range(length) if weights[t]] == [16, 18, 20, 23, 25, 27]
    assert inputs[29:] == [12] * (length - 29)
    other_order += told != asked
  assert other_order > 150
  assert set(np.unique(batch["inputs"])) >= set(range(12))


@pytest.mark.parametrize(
  "wrong, message",
  [
    (dict(num_contexts=0), "num_contexts >= 1; got 0"),
    (dict(num_keys=0), "num_keys >= 1; got 0"),
    (dict(num_values=1), "num_values >= 2; got 1"),
    (dict(num_contexts=17), "max_contexts >= 17; got 16"),
    (dict(num_keys=17), "max_keys >= 17; got 16"),
    (dict(held_out_examples=0), "held_out_examples >= 1; got 0"),
  ],
)
def test_wrong_fields_are_refused(wrong, message):
  with pytest.raises(ValueError, match=f"joint_recall needs {message}"):
    joint_recall.JointRecallConfig(**wrong)


def test_a_length_for_less_than_two_tables_is_refused():
  with pytest.raises(ValueError, match="sequence_length >= 28; got 27"):
    joint_recall.batch(KEYS, CONFIG, 27)
