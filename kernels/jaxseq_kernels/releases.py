"""Which releases of JAX the kernels were tested on: Pallas changes between releases."""

import warnings

import jax

__all__ = ["TESTED", "untested"]

TESTED = ("0.11",)


def untested() -> str | None:
  """Why "auto" should not take a kernel under this JAX, or None. Warns once."""
  release = ".".join(jax.__version__.split(".")[:2])
  if release in TESTED:
    return None
  reason = (
    f"jaxseq's kernels were tested on JAX {', '.join(TESTED)}, not on {jax.__version__}"
  )
  warnings.warn(f"{reason}; the plain forms run instead", stacklevel=2)
  return reason
