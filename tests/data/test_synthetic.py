import jax
import numpy as np

from jaxseq import data, parallel
from jaxseq.data import synthetic


def test_held_out_rows_are_no_training_rows():
  source = data.make("mqar", vocab_size=64, num_pairs=3, held_out_examples=40)
  held_out = np.concatenate([b["inputs"] for b in source.evaluation(8, 12)])
  assert len(np.unique(held_out, axis=0)) == 40
  for seed in (0, 1):
    batches = source.train(8, 12, seed)
    train = np.concatenate([next(batches)["inputs"] for _ in range(20)])
    assert len(np.unique(np.concatenate([train, held_out]), axis=0)) == 200


def test_the_mesh_of_the_trainer_changes_nothing():
  """Where jit would make each process's rows one computation of all devices."""
  source = data.make("mqar", vocab_size=64, num_pairs=3)
  rows = np.arange(8)
  want = source._rows(0, synthetic.TRAIN, 5, rows, 12)
  with jax.set_mesh(parallel.make_mesh(parallel.MeshConfig(data=4, fsdp=2))):
    got = source._rows(0, synthetic.TRAIN, 5, rows, 12)
  for name in want:
    np.testing.assert_array_equal(got[name], want[name])
