"""One spelling for what the tasks refuse."""

from collections.abc import Sequence

__all__ = ["check_at_least", "check_one_of"]


def check_at_least(task: str, least: int | float, **fields: int | float) -> None:
  """
  Raises:
    ValueError: If a field is below `least`; names the first that is.
  """
  for name, value in fields.items():
    if value < least:
      raise ValueError(f"{task} needs {name} >= {least}; got {value}")


def check_one_of(task: str, words: Sequence[str], **fields: str) -> None:
  """
  Raises:
    ValueError: If a field is none of `words`; names the first that is not.
  """
  for name, value in fields.items():
    if value not in words:
      raise ValueError(f"{task} needs {name} in {tuple(words)}; got {value!r}")
