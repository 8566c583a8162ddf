"""Which form of an op runs a call.

An op lists its forms in `IMPLEMENTATIONS`, fastest first. A form may refuse a call, in
words; a form asked for by name raises them. "auto" takes the first form that does not
refuse and is not slow there.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxseq_kernels import releases

__all__ = ["STEP", "Form", "no_kernels", "platform", "select"]

HOPPER = ("H100", "H200", "H800", "H20", "GH200")
STEP = "pallas_gpu_step"  # The form that is a kernel for one token.


def platform() -> str:
  """Where the call will run: "cpu", "gpu" or "tpu".

  That is the platform of the mesh in context, which may be compiled for without being
  there, or else JAX's default backend.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  name = jax.default_backend() if device is None else device.platform
  return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def no_kernels(backend: str) -> str | None:
  """Why no kernel for "gpu" or "tpu" runs here, or None. Warns once of an odd GPU."""
  if platform() != backend:
    return f"it needs a {backend.upper()}, not {platform()}"
  return releases.untested() or (_not_hopper() if backend == "gpu" else None)


def _not_hopper() -> str | None:
  device = jax.sharding.get_abstract_mesh().abstract_device
  kind = jax.devices()[0].device_kind if device is None else device.device_kind
  if any(name in kind for name in HOPPER):
    return None
  reason = f"the GPU kernels are for Hopper ({', '.join(HOPPER)}), not {kind}"
  warnings.warn(f"{reason}; the plain forms run instead", stacklevel=2)
  return reason


def _takes_all(*args) -> None:
  return None


def _never(*args) -> bool:
  return False


@dataclasses.dataclass(frozen=True)
class Form:
  """One implementation of an op.

  Attributes:
    run: The function; all forms of an op have one signature.
    refusal: Called with the same arguments, says why it cannot take them, or None.
    slow: Called with the same arguments, says whether "auto" should pass it over.
  """

  run: Callable[..., Any]
  refusal: Callable[..., str | None] = _takes_all
  slow: Callable[..., bool] = _never


def select(
  op: str, forms: Mapping[str, Form], implementation: str, tokens: int, *args
) -> Callable[..., Any]:
  """Chooses the form that runs `op` on these arguments.

  Args:
    op: The op's name, for messages.
    forms: By name, the fastest first.
    implementation: A name, or "auto". For one token "auto" is the form `STEP`, or
      the recurrent form, which then is a single step.
    tokens: T.
    *args: What the form will be called with.

  Raises:
    ValueError: If there is no form of that name.
    NotImplementedError: If the form named cannot take this call.
  """
  if implementation == "auto":
    if tokens == 1 and "recurrent" in forms:
      kernel = STEP in forms and forms[STEP].refusal(*args) is None
      return forms[STEP if kernel else "recurrent"].run
    able = (f for f in forms.values() if f.refusal(*args) is None)
    return next(f.run for f in able if not f.slow(*args))
  if implementation not in forms:
    raise ValueError(
      f"{op} needs implementation 'auto' or one of {', '.join(map(repr, forms))}; "
      f"got {implementation!r}"
    )
  reason = forms[implementation].refusal(*args)
  if reason is not None:
    raise NotImplementedError(f"{op}: {implementation} cannot take this call: {reason}")
  return forms[implementation].run
