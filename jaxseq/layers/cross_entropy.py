"""Cross-entropy from hidden states, without the logits of all tokens at once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks

__all__ = ["CHUNK_SIZE", "cross_entropy"]

CHUNK_SIZE = 128  # Tokens of a sequence whose logits live at one time.


def cross_entropy(
  hidden: Float[Array, "B T D"],
  head: Float[Array, "D W"],
  targets: Int[Array, "B T"],
  weights: Float[Array, "B T"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Sums the weighted negative log-likelihood of the targets, in nats.

  The logits of `CHUNK_SIZE` tokens of each sequence are made, used and dropped, in the
  backward pass again, so that no [B, T, W] array exists.

  Args:
    hidden: Last hidden states. Their dtype is that of the product with `head`.
    head: The output matrix.
    targets: Ids in [0, W). Not checked.
    weights: 0 leaves a token out.

  Returns:
    The sum of losses, and the weighted number of tokens whose most likely id is the
    target, both float32.
  """

  @jax.checkpoint
  def chunk(hidden, targets, weights):
    logits = jnp.einsum("btd,dw->btw", hidden, head, preferred_element_type=jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked
    right = logits.argmax(axis=-1) == targets
    return jnp.sum(losses * weights), jnp.sum(right * weights)

  def step(sums, block):
    loss, right = chunk(*block)
    return (sums[0] + loss, sums[1] + right), None

  zero = jnp.zeros((), jnp.float32)
  size = min(CHUNK_SIZE, hidden.shape[1])
  cut = blocks.split((hidden, targets, weights.astype(jnp.float32)), size)
  return jax.lax.scan(step, (zero, zero), cut)[0]
