import jax
import numpy as np

from jaxseq import data, parallel
from jaxseq.data import synthetic


def test_held_out_rows_are_no_training_rows():
  """Not even where the seeds are the same."""
  source = data.make("mqar", vocab_size=64, num_pairs=3, held_out_examples=40)
  held_out = np.concatenate([b["inputs"] for b in source.evaluation(8, 12)])
  rows = np.arange(40)
  train = source._rows(0, synthetic.TRAIN, 0, rows, 12)["inputs"]
  both = np.concatenate([held_out, train])
  assert len(np.unique(both, axis=0)) == 80


def test_the_mesh_of_the_trainer_changes_nothing():
  """Where jit would make each process's rows one computation of all devices."""
  source = data.make("mqar", vocab_size=64, num_pairs=3)
  rows = np.arange(8)
  want = source._rows(0, synthetic.TRAIN, 5, rows, 12)
  with jax.set_mesh(parallel.make_mesh(parallel.MeshConfig(data=4, fsdp=2))):
    got = source._rows(0, synthetic.TRAIN, 5, rows, 12)
  for name in want:
    np.testing.assert_array_equal(got[name], want[name])
