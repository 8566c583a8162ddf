"""What a user installs: both packages, and nothing called `kernels`."""

import os
import pathlib
import subprocess
import sys
import venv

import pytest

ROOT = pathlib.Path(__file__).parents[1]

PROBE = """
import importlib.util, pathlib, sys
import jaxseq.registry, jaxseq.ops, jaxseq_kernels.short_conv
assert importlib.util.find_spec("kernels") is None, "kernels is importable"
assert importlib.util.find_spec("tests") is None and (
  importlib.util.find_spec("experiments") is None
), "tests or experiments were installed"
here = pathlib.Path(jaxseq.registry.__file__).parent
assert (here / "py.typed").exists()
print(here)
"""


def probe(python, folder, **env):
  """Where jaxseq is imported from by a python that starts in `folder`."""
  env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | env
  run = subprocess.run(
    [python, "-c", PROBE], cwd=folder, env=env, capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
  return pathlib.Path(run.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_the_wheel_holds_both_packages(tmp_path):
  build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
  subprocess.run([*build, str(tmp_path / "wheels"), str(ROOT)], check=True)
  (wheel,) = (tmp_path / "wheels").glob("jaxseq-*.whl")
  site = tmp_path / "site"
  install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
  subprocess.run([*install, str(site), str(wheel)], check=True)
  # -S would lose the dependencies; the wheel's folder stands before the editable one.
  found = probe(sys.executable, tmp_path, PYTHONPATH=str(site))
  assert found.is_relative_to(site)


@pytest.mark.slow
def test_an_editable_install_finds_both_packages(tmp_path):
  target = tmp_path / "env"
  venv.create(target, with_pip=True, system_site_packages=False)
  python = target / "bin" / "python"
  # The dependencies are those of the environment that runs the tests.
  here = next(p for p in sys.path if p.endswith("site-packages"))
  install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
  subprocess.run([*install, "--editable", str(ROOT)], check=True)
  found = probe(str(python), tmp_path, PYTHONPATH=here)
  assert found == ROOT / "jaxseq"


def test_kernels_is_no_package():
  assert not (ROOT / "kernels" / "__init__.py").exists()
