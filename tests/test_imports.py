"""Imports point down: kernels <- ops <- modules <- models <- experiments."""

import ast
import pathlib
import re

import pytest

from jaxseq import registry
from jaxseq.modules.mixer import Mixer

ROOT = pathlib.Path(__file__).parents[1]

# What the files of a room may import of the project.
BELOW = {
  "kernels/jaxseq_kernels": {"jaxseq_kernels"},
  "jaxseq/ops": {"jaxseq_kernels", "jaxseq.ops"},
  "jaxseq/positions": {"jaxseq.ops", "jaxseq.positions"},
  "jaxseq/layers": {"jaxseq.ops", "jaxseq.layers"},
  "jaxseq/modules": {
    *("jaxseq.ops", "jaxseq.layers", "jaxseq.positions", "jaxseq.modules"),
    "jaxseq.typing",
  },
  "jaxseq/models": {
    *("jaxseq.ops", "jaxseq.layers", "jaxseq.registry", "jaxseq.models"),
    *("jaxseq.typing", "jaxseq.modules.mixer"),
  },
  "jaxseq/convert": {
    *("jaxseq.ops", "jaxseq.layers", "jaxseq.modules", "jaxseq.convert"),
  },
  "jaxseq/parallel": {"jaxseq.parallel"},
  "jaxseq/tasks": {"jaxseq.tasks"},
  "jaxseq/data": {"jaxseq.data", "jaxseq.tasks"},
  "jaxseq/training": {"jaxseq.training"},
}

NOT_IN_OPS = {"flax", "optax", "orbax", "grain"}
SLOW = "jax.experimental.pallas"  # 0.3 to 0.7 s.


def files(room):
  return sorted((ROOT / room).rglob("*.py"))


def imported(tree, top_only=False):
  """Names of modules, as `from a import b` may mean a.b both a and a.b."""
  nodes = tree.body if top_only else ast.walk(tree)
  for node in nodes:
    if isinstance(node, ast.Import):
      yield from ([alias.name] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from ([node.module, f"{node.module}.{a.name}"] for a in node.names)


@pytest.mark.parametrize("room", BELOW)
def test_no_arrow_points_up(room):
  under = lambda name: any(name == b or name.startswith(b + ".") for b in BELOW[room])
  for file in files(room):
    for names in imported(ast.parse(file.read_text())):
      if names[0].split(".")[0] in ("jaxseq", "jaxseq_kernels"):
        assert any(map(under, names)), f"{file.relative_to(ROOT)} imports {names[-1]}"
      assert names[0].split(".")[0] not in ("experiments", "tests"), file


def test_ops_and_kernels_know_no_more_than_jax():
  for room in ("jaxseq/ops", "kernels/jaxseq_kernels"):
    for file in files(room):
      for names in imported(ast.parse(file.read_text())):
        assert names[0].split(".")[0] not in NOT_IN_OPS, f"{file}: {names[0]}"


def test_pallas_is_imported_inside_functions():
  """It, or the modules of kernels that begin with it, which are told by name."""
  of_kernels = re.compile(r"jaxseq_kernels\.(hopper\w*|(.*\.)?pallas_(gpu|tpu)\w*)$")
  begin = lambda file: [*imported(ast.parse(file.read_text()), top_only=True)]
  slow = {
    ".".join(file.relative_to(ROOT / "kernels").with_suffix("").parts)
    for file in files("kernels")
    if any(n.startswith(SLOW) for names in begin(file) for n in names)
  }
  assert all(map(of_kernels.match, slow)), slow
  for room in ("jaxseq", "kernels"):
    for file in files(room):
      for names in begin(file):
        if not of_kernels.search(".".join(file.with_suffix("").parts[-3:])):
          assert slow.isdisjoint(names), f"{file}: {names[-1]}"


def test_every_mixer_is_in_the_registry():
  def below(cls):
    for sub in cls.__subclasses__():
      yield from (sub, *below(sub))

  ours = {c for c in below(Mixer) if c.__module__.startswith("jaxseq.")}
  listed = {entry.cls for entry in registry.MIXERS.values()}
  assert ours == listed, ours ^ listed
  for file in (ROOT / "jaxseq/modules").glob("*/*.py"):
    family = file.parent.name
    assert family in registry.FAMILIES, f"{file} is in no family of the registry"
