"""The scripts that time: a row for each op and form, and mistakes told in a line."""

import subprocess
import sys


def lines(script, *given):
  command = [sys.executable, "-m", f"experiments.{script}", "--repeats=2", *given]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_recurrences_and_convolutions_have_a_row_for_each_form():
  given = ("--ops=short_conv,delta_rule", "--forms=recurrent,parallel,chunked")
  code, found, _ = lines("bench_kernels", *given, "--shapes=B1T64H2D32", "--calls=1")
  timed = [line.split()[::2][:2] for line in found if " B1T64H2D32 " in line]
  assert code == 0
  assert sorted(timed) == [
    ["delta_rule", "chunked"],
    ["delta_rule", "recurrent"],
    ["short_conv", "parallel"],
    ["short_conv", "recurrent"],
  ]


def test_decoding_has_a_row_for_each_form_and_one_for_the_state():
  code, found, _ = lines("bench_decode", "--ops=dplr", "--shapes=B1H2D32")
  assert code == 0
  assert "dplr: pallas_gpu_step cannot: it needs a GPU, not cpu" in found
  assert [line.split()[:2] for line in found[-2:]] == [
    ["dplr", "recurrent"],
    ["any", "state"],
  ]


def test_an_op_that_does_not_decode_is_told_with_those_that_do():
  code, _, found = lines("bench_decode", "--ops=mlstm")
  assert code == 2
  assert "no op mlstm that decodes here; there are scalar_decay, diag" in found[-1]
