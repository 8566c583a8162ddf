"""What every registered task promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import tasks

# Small fields of each task's config, and a length.
EXAMPLES = {
  "mqar": (dict(vocab_size=32, num_pairs=3), 16),
  "induction_heads": (dict(vocab_size=8), 12),
  "in_context_recall": (dict(vocab_size=8), 13),
  "noisy_recall": (dict(vocab_size=12, noise_vocab_size=4), 20),
  "fuzzy_recall": (dict(vocab_size=8), 30),
  "memorization": (dict(vocab_size=11), 13),
  "ngram_lookup": (dict(vocab_size=6, key_length=2, answer_length=3), 19),
  "phone_book": (dict(num_names=3, number_length=2), 18),
  "joint_recall": (dict(num_contexts=2, num_keys=3, num_values=4), 31),
  "set_disjointness": (dict(vocab_size=32, set_size=3), 13),
  "needle": (dict(num_needles=2, number_length=3), 24),
  "passkey": (dict(), 20),
  "selective_copying": (dict(vocab_size=7, num_tokens=5), 21),
  "compression": (dict(num_tokens=4, max_places=8), 12),
  "string_copying": (dict(vocab_size=7, shortest=0.5), 15),
  "parity": (dict(), 21),
  "linear_regression": (dict(num_dims=3, noise=0.2), 11),
  "sparse_linear_regression": (dict(num_dims=4, num_nonzero=2), 12),
  "fourier_regression": (dict(max_frequency=2), 14),
  "regression_mixture": (dict(num_dims=3), 12),
  "discrete_functions": (dict(num_bits=3), 12),
  "markov_chains": (dict(vocab_size=3, order=2), 16),
  "automata": (dict(vocab_size=7, max_states=5, max_string=6), 20),
  "worm_serial_recall": (dict(set_size=3, num_items=5), 11),
  "worm_serial_recognition": (dict(set_size=3, num_items=5), 11),
  "worm_free_recall": (dict(set_size=3, num_items=5), 14),
  "worm_item_recognition": (dict(set_size=3, num_items=5), 11),
  "worm_change_detection": (dict(set_size=3, num_items=5), 11),
  "worm_feature_binding": (dict(set_size=3, num_items=5), 17),
  "worm_spatial_coordination": (dict(set_size=4, num_items=7), 9),
  "worm_complex_span": (dict(set_size=3, num_items=5), 17),
  "worm_memory_updating": (dict(set_size=2, num_boxes=3), 16),
  "worm_task_switching": (dict(), 11),
  "n_back": (dict(num_items=5), 11),
  "listops": (dict(max_depth=3, max_args=4), 20),
  "pathfinder": (
    dict(num_dashes=3, num_distractors=1, distractor_dashes=1, step=0.25),
    16**2,
  ),
  "arrow_pointing": (
    dict(patch_size=8, radius=(2, 3), arrow_length=(3, 4), margin=4),
    25,
  ),
  "pixel_digits": (dict(), 64),
}
ROWS = 64


@functools.cache
def example(name):
  """The task, its config, its length and a batch of it."""
  task = tasks.task(name)
  fields, length = EXAMPLES[name]
  config = task.config(**fields)
  batch = jax.jit(task.batch, static_argnums=(1, 2))(keys(), config, length)
  return task, config, length, jax.tree.map(np.asarray, batch)


def keys():
  return jax.random.split(jax.random.key(0), ROWS)


@pytest.fixture(params=list(tasks.TASKS))
def name(request):
  return request.param


def test_a_batch_has_the_shapes_and_dtypes_that_are_promised(name):
  task, config, length, batch = example(name)
  at = dict(tokens=(ROWS, length), numbers=(ROWS, length), **{"class": (ROWS,)})
  where = at[task.predicts]
  vocab_size = getattr(config, "vocab_size", None)
  inputs = (ROWS, length) if vocab_size else (ROWS, length, config.num_inputs)
  outputs = getattr(config, "num_outputs", None)
  targets = (*where, outputs) if task.predicts == "numbers" else where
  want = dict(inputs=inputs, targets=targets, weights=where, segment_ids=(ROWS, length))
  if task.metric != "accuracy":
    want["optimum"] = (*where, vocab_size if task.predicts == "tokens" else outputs)
  assert {name: x.shape for name, x in batch.items()} == want
  ids = lambda x: x.dtype == np.int32 and x.min() >= 0
  assert ids(batch["segment_ids"]) and batch["weights"].dtype == np.float32
  assert batch["weights"].any(axis=-1).all() if where[1:] else batch["weights"].any()
  if vocab_size:
    assert ids(batch["inputs"]) and batch["inputs"].max() < vocab_size
  if task.predicts != "numbers":
    most = vocab_size if task.predicts == "tokens" else outputs
    assert ids(batch["targets"]) and batch["targets"].max() < most
  assert (task.predicts == "tokens") == (outputs is None)
  assert all(np.isfinite(x).all() for x in batch.values())
  assert task.ability in tasks.ABILITIES and config.held_out_examples >= 1


def test_a_row_depends_on_its_own_key_alone(name):
  task, config, length, batch = example(name)
  order = np.random.default_rng(0).permutation(ROWS)
  run = jax.jit(task.batch, static_argnums=(1, 2))
  again = run(keys()[order], config, length)
  for field, x in batch.items():
    np.testing.assert_array_equal(again[field], x[order], err_msg=field)
  assert len(np.unique(batch["inputs"], axis=0)) > ROWS // 2


def test_chance_is_what_the_best_constant_answer_gets(name):
  task, config, _, batch = example(name)
  chance = tasks.chance(task.metric, config, batch)
  if task.metric != "accuracy":
    assert chance > 0
    return
  answers = batch["targets"][batch["weights"] > 0]
  best = np.bincount(answers).max() / len(answers)
  # Of n draws the best of some answers is off by a few standard deviations.
  off = 4 * np.sqrt(chance * (1 - chance) / min(len(answers), ROWS)) + 1e-6
  assert abs(best - chance) < off, (best, chance)


def test_the_optimum_is_a_distribution_and_at_no_distance_from_itself(name):
  task, _, _, batch = example(name)
  if task.metric == "accuracy":
    pytest.skip("its metric needs no optimum")
  outputs = batch["optimum"]
  if task.metric == "divergence":
    weighed = batch["weights"] > 0
    np.testing.assert_allclose(outputs[weighed].sum(-1), 1, atol=1e-5)
    outputs = np.log(np.maximum(outputs, 1e-30))
  assert abs(tasks.measure(task.metric, jnp.asarray(outputs), batch)) < 1e-5


def test_every_task_is_an_example_here():
  assert EXAMPLES.keys() == tasks.TASKS.keys()


def test_an_unknown_task_is_named_with_its_neighbour():
  with pytest.raises(ValueError, match="'pariti'; did you mean parity"):
    tasks.task("pariti")


def test_a_metric_without_its_optimum_is_refused():
  *_, batch = example("parity")
  outputs = jnp.zeros((*batch["targets"].shape, 2))
  with pytest.raises(ValueError, match="divergence needs a batch with an optimum"):
    tasks.measure("divergence", outputs, batch)
  with pytest.raises(ValueError, match="metric must be one of .* got 'f1'"):
    tasks.measure("f1", outputs, batch)
