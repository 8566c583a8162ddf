"""A train step compiles for a TPU that is not here. What it says is the compiler's."""

import pytest

from experiments import compile_pod
from experiments.configs import lm_bytes

pytest.importorskip("libtpu")
pytestmark = pytest.mark.slow

KERNELS = ("scalar_decay", "diagonal_decay", "gated_delta_rule", "channel_delta_rule")
KERNELS += ("dplr", "diagonal_recurrence", "selective_scan", "short_conv")
KERNELS += ("lstm", "slstm", "gru")


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


def test_a_model_of_all_kernels_compiles_for_256_chips():
  c = lm_bytes.get_config()
  c.mixer = "retnet,gla,gated_delta_net,kimi_delta_attention,rwkv7,hgrn,mamba"
  c.mixer += ",lstm,slstm,gru"
  c.batch_size, c.sequence_length = 256, 512
  c.model.update(dict(features=512, num_layers=10, num_heads=4, remat="none"))
  c.mesh.update(dict(data=1, fsdp=64, tensor=4))
  report = compile_pod.compile_step(c, "v5e:16x16")
  assert report.num_devices == 256
  for op in KERNELS:
    for way in ("forward", "backward"):
      assert any(f"{op}_{way}" in name for name in report.custom_calls), (op, way)
  assert report.arguments_gib + report.temporary_gib < 16  # Of a chip's HBM.


def test_an_unknown_topology_is_refused():
  with pytest.raises(ValueError, match="no TPU topology"):
    compile_pod.compile_step(lm_bytes.get_config(), "v5e:9x7x5")
