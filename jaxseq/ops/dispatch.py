"""Which form of an op runs a call.

An op lists its forms in `IMPLEMENTATIONS`, fastest first. A form may refuse a call, in
words; "auto" takes the first that does not, and a form asked for by name raises them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Form", "select"]


def _takes_all(*args, **kwargs) -> None:
  return None


@dataclasses.dataclass(frozen=True)
class Form:
  """One implementation of an op.

  Attributes:
    run: The function; all forms of an op have one signature.
    refusal: Called with the same arguments, says why it cannot take them, or None.
  """

  run: Callable[..., Any]
  refusal: Callable[..., str | None] = _takes_all


def select(
  op: str, forms: Mapping[str, Form], implementation: str, tokens: int, *args, **kwargs
) -> Callable[..., Any]:
  """Chooses the form that runs `op` on these arguments.

  Args:
    op: The op's name, for messages.
    forms: By name, the fastest first.
    implementation: A name, or "auto". For one token "auto" is the recurrent form,
      which then is a single step.
    tokens: T.
    *args: What the form will be called with.
    **kwargs: Likewise.

  Raises:
    ValueError: If there is no form of that name.
    NotImplementedError: If the form named cannot take this call.
  """
  if implementation == "auto":
    if tokens == 1 and "recurrent" in forms:
      return forms["recurrent"].run
    return next(f.run for f in forms.values() if f.refusal(*args, **kwargs) is None)
  if implementation not in forms:
    raise ValueError(
      f"{op} needs implementation 'auto' or one of {', '.join(map(repr, forms))}; "
      f"got {implementation!r}"
    )
  reason = forms[implementation].refusal(*args, **kwargs)
  if reason is not None:
    raise NotImplementedError(f"{op}: {implementation} cannot take this call: {reason}")
  return forms[implementation].run
