"""A train step compiles for a TPU that is not here. What it says is the compiler's."""

import pytest

from experiments import compile_pod
from experiments.configs import lm_bytes

pytest.importorskip("libtpu")
pytestmark = pytest.mark.slow


def test_a_small_language_model_compiles_for_four_chips():
  c = lm_bytes.get_config()
  c.mixer, c.batch_size, c.sequence_length = "gla,attention", 4, 256
  c.model.update(dict(features=256, num_layers=2, num_heads=2))
  c.mesh.update(dict(data=1, fsdp=2, tensor=2))
  report = compile_pod.compile_step(c, "v5e:2x2")
  assert report.num_devices == 4
  assert report.collectives["all-gather"] > 0 and report.collectives["all-reduce"] > 0
  assert 0 < report.arguments_gib < 0.1 and 0 < report.temporary_gib < 2
  # Attention is a kernel there, inside shard_map, and not the plain form.
  assert any("splash" in name for name in report.custom_calls), report.custom_calls


def test_an_unknown_topology_is_refused():
  with pytest.raises(ValueError, match="no TPU topology"):
    compile_pod.compile_step(lm_bytes.get_config(), "v5e:9x7x5")
