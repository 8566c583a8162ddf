"""What the scripts share: flags, and errors of one line with exit code 2."""

import contextlib
import difflib
import glob
import os
import runpy
import sys
from collections.abc import Callable

import jax
from absl import flags, logging
from ml_collections import config_flags

__all__ = [
  "CONFIG",
  "MULTIHOST",
  "NO_TPU",
  "WORKDIR",
  "UsageError",
  "check_known",
  "run",
  "usage_errors",
]

CONFIG = config_flags.DEFINE_config_file(
  "config", help_string="Config file; --config.FIELD=VALUE changes a field."
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run: checkpoints, metrics, curves."
)
MULTIHOST = flags.DEFINE_bool(
  "multihost",
  False,
  "Call jax.distributed.initialize() first: one process a host, under SLURM or on a "
  "TPU pod or GKE, where JAX finds the other hosts by itself.",
)


# libtpu as a compiler alone: it must not look for chips, nor for the cloud's metadata,
# nor report at length that it found neither.
NO_TPU = dict(
  TPU_SKIP_MDS_QUERY="1",
  TPU_ACCELERATOR_TYPE="v5litepod-4",
  TPU_WORKER_HOSTNAMES="localhost",
  TPU_WORKER_ID="0",
  ALLOW_MULTIPLE_LIBTPU_LOAD="1",
  TPU_MIN_LOG_LEVEL="3",
  TPU_STDERR_LOG_LEVEL="3",
)


class UsageError(Exception):
  """Something the user gave cannot be; its message is one line."""


def check_known(kind, given, known, such="") -> None:
  """Raises a ValueError that names what of the given is not known, and what is."""
  unknown = sorted(set(given) - set(known))
  if unknown:
    raise ValueError(
      f"no {kind} {', '.join(unknown)}{such}; there are {', '.join(known)}"
    )


@contextlib.contextmanager
def usage_errors():
  """Turns the ValueError of a check into a `UsageError` of one line."""
  try:
    yield
  except (TypeError, ValueError) as error:
    raise UsageError(" ".join(str(error).split())) from error


def run(main: Callable[[], int | None]) -> None:
  """Parses the command line and exits with what `main` returns.

  A wrong flag, a wrong field of the config and a `UsageError` print one line and exit
  with 2.
  """
  logging.set_verbosity(logging.WARNING)
  if not glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*"):
    os.environ.update(NO_TPU)
  try:
    _parse(sys.argv)
    if MULTIHOST.value:
      jax.distributed.initialize()
    code = main()
  except UsageError as error:
    print(f"error: {error}", file=sys.stderr)
    code = 2
  sys.exit(code or 0)


def _parse(argv: list[str]) -> None:
  try:
    rest = flags.FLAGS(argv)[1:]
  except flags.Error as error:
    raise UsageError(str(error).splitlines()[0]) from error
  except (AttributeError, KeyError) as error:  # How the config says: no such field.
    raise UsageError(_unknown_field(argv)) from error
  except (OSError, TypeError, ValueError) as error:
    raise UsageError(" ".join(str(error).split())) from error
  if CONFIG.present:
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    if not os.path.isfile(path):
      raise UsageError(f"there is no config file {path!r}")
  if rest:
    raise UsageError(f"this takes flags only; got {' '.join(rest)}")


def _unknown_field(argv: list[str]) -> str:
  """Finds the override that names no field, and the nearest names."""
  given = dict(a.lstrip("-").partition("=")[::2] for a in argv if a.startswith("-"))
  known = list(_fields(runpy.run_path(given["config"])["get_config"]()))
  for flag in given:
    name = flag.removeprefix("config.")
    if flag.startswith("config.") and name not in known:
      near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
      hint = f"did you mean {' or '.join(near)}?" if near else f"it has {known}"
      return f"the config has no field {name!r}; {hint}"
  return "an override names no field of the config"


def _fields(config, prefix: str = ""):
  for key, value in config.items():
    yield prefix + key
    if hasattr(value, "items"):
      yield from _fields(value, f"{prefix}{key}.")
