"""JRT-Prompt: the context twice (Arora et al. 2024, arXiv:2407.05483, sec. 3).

    tokens   c1 c2 c3 q1 q2  .            a context of C = 3, a question, padding
    twice    c1 c2 c3 c1 c2 c3 q1 q2  .

When it reads the context again, a recurrent model knows what to look for, and so what
to keep.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

__all__ = ["read_twice"]


def read_twice(
  batch: dict[str, Array], context_length: Int[Array, "B"], length: int
) -> dict[str, Array]:
  """Repeats the first tokens of each row.

  Args:
    batch: A batch of `data`, inputs, targets, weights and segment_ids [B, T], with one
      document a row, from the row's beginning.
    context_length: C, tokens to repeat.
    length: Of the new rows. T plus the largest C holds everything; what is past it is
      cut off.

  Returns:
    The batch [B, length]. The first reading has no weight, so each target counts once.
  """
  T = batch["inputs"].shape[1]
  context_length = context_length[:, None]
  place = jnp.arange(length)
  source = jnp.where(place < context_length, place, place - context_length)
  take = lambda x: jnp.where(
    source < T, jnp.take_along_axis(x, jnp.minimum(source, T - 1), axis=1), 0
  )
  batch = {name: take(x) for name, x in batch.items()}
  again = place >= context_length
  return batch | {"weights": jnp.where(again, batch["weights"], 0)}
