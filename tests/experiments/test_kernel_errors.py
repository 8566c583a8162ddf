"""Errors of kernels: rows from small inputs, and mistakes told in a line."""

import re

import pytest
from absl import flags

from experiments import cli, kernel_errors


@pytest.fixture
def given():
  """`given(name=value)` sets flags until the test ends."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["kernel_errors"])
  names = ("ops", "inputs", "draws", "tokens", "heads", "backend")
  before = {name: flags.FLAGS[name].value for name in names}
  set_all = lambda **values: [setattr(flags.FLAGS, *item) for item in values.items()]
  yield set_all
  set_all(**before)


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_where_keys_repeat_the_kernel_loses_no_more_than_the_plain_form(given, backend):
  given(draws=1, tokens=130, heads=1, backend=backend)
  row = kernel_errors.row("gated_delta_rule", "alike")
  found = re.findall(r"(\w+) ([\d.e-]+) \(([\d.e-]+)\)", row)
  names, kernel, plain = zip(*found)
  assert names == ("o", "S", "dq", "dk", "dv", "dg", "dbeta")
  for x, y in zip(map(float, kernel), map(float, plain)):
    assert 0 < x < y < 50


def test_what_there_is_not_is_told_with_what_there_is(given):
  given(ops=["lstm"])
  with pytest.raises(cli.UsageError, match="no op lstm; there are scalar_decay, diag"):
    kernel_errors.main()
