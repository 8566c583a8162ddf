"""What a mixer does to a sequence, seen from outside.

    M_ij = || d y_i / d x_j ||_F / sqrt(D)

For a mixer that is linear in x, such as attention with fixed weights, this is the size
of its mixing matrix; for any other it is how strongly output i answers to input j, the
gates' own answers included.
"""

import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq.modules.mixer import Mixer

__all__ = ["memory_length", "mixing_matrix"]


def mixing_matrix(mixer: Mixer, params, x: Float[Array, "T D"]) -> Float[Array, "T T"]:
  """The implicit T x T matrix by which a mixer mixes a sequence.

  It costs T D backward passes, run T at a time.

  Args:
    mixer: Any mixer. A dtype of float32 shows small entries best.
    params: Its variables.
    x: One sequence.

  Returns:
    M, with the output in the rows and the input in the columns.
  """
  T, D = x.shape
  y, pull = jax.vjp(lambda x: mixer.apply(params, x[None])[0][0], x)

  def channel(d):
    """Squared answers of channel d of all outputs."""
    cotangents = (
      jnp.zeros((T, T, D), y.dtype).at[jnp.arange(T), jnp.arange(T), d].set(1)
    )
    (answers,) = jax.vmap(pull)(cotangents)
    return jnp.sum(jnp.square(answers.astype(jnp.float32)), axis=-1)

  sums = jax.lax.map(channel, jnp.arange(D)).sum(axis=0)
  return jnp.sqrt(sums / D)


def memory_length(mixer: Mixer, params, x: Float[Array, "T D"]) -> Float[Array, "..."]:
  """Tokens until a memory has lost all but 1 / e of what it holds.

  Args:
    mixer: A mixer that shows its decays; see `modules.mixer`.
    params: Its variables.
    x: One sequence.

  Returns:
    By head, or by head and channel; from the mean of the logarithms over the tokens.

  Raises:
    ValueError: If the mixer shows none.
  """
  _, sown = mixer.apply(params, x[None], mutable=["gates"])
  gates = flax.traverse_util.flatten_dict(sown.get("gates", {}))
  decays = [shown for path, shown in gates.items() if path[-1] == "log_decay"]
  if not decays:
    raise ValueError(f"{type(mixer).__name__} has no decays to read a length from")
  log_decay = decays[0][0][0].astype(jnp.float32)
  return -1 / jnp.minimum(jnp.mean(log_decay, axis=0), -1e-9)
