"""One spelling for the shape errors of every op."""

import jax

__all__ = ["check_shapes"]


def check_shapes(op: str, **arrays: tuple[jax.Array | None, str]) -> dict[str, int]:
  """Binds the letters of each array's axes to sizes, the same in all arrays.

  Args:
    op: The function's name, for the message.
    **arrays: By argument name, the array and its axes, such as `(q, "B T H K")`. An
      array that is None is left out.

  Returns:
    The size of each letter.

  Raises:
    ValueError: If a rank is wrong or a letter would have two sizes.
  """
  sizes: dict[str, int] = {}
  for name, (array, axes) in arrays.items():
    if array is None:
      continue
    letters = axes.split()
    shape = "[" + ", ".join(letters) + "]"
    if array.ndim != len(letters):
      raise ValueError(f"{op} needs {name} {shape}; got shape {array.shape}")
    for letter, size in zip(letters, array.shape):
      if sizes.setdefault(letter, size) != size:
        raise ValueError(
          f"{op} needs {name} {shape} with {letter} = {sizes[letter]}; "
          f"got shape {array.shape}"
        )
  return sizes
