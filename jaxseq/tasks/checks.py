"""One spelling for what the tasks refuse."""

__all__ = ["check_at_least"]


def check_at_least(task: str, least: int | float, **fields: int | float) -> None:
  """
  Raises:
    ValueError: If a field is below `least`; names the first that is.
  """
  for name, value in fields.items():
    if value < least:
      raise ValueError(f"{task} needs {name} >= {least}; got {value}")
