"""Markov chains in context (Bondaschi et al. 2025, arXiv:2502.10178).

    inputs   0 1 1 0 1 1 1        the next token follows the last k; its distribution is
    targets  . 1 0 1 1 1 0        drawn anew for each sequence (k = 2 here)

For each of the W^k contexts the distribution is drawn from Dirichlet(beta, ..., beta);
the authors' has W = 2 and beta = 1. The first k tokens are uniform and do not count.
The optimum is Bayes', add-beta smoothing of the counts n so far:

    p(token | context) = (n(context, token) + beta) / (n(context) + W beta)
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["MarkovChainsConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class MarkovChainsConfig:
  """The task.

  Attributes:
    vocab_size: W.
    order: k, tokens that the next one depends on.
    beta: Of the Dirichlet prior; less makes chains more certain.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 2
  order: int = 1
  beta: float = 1.0
  held_out_examples: int = 1024

  def __post_init__(self):
    checks.check_at_least(
      "markov_chains", 1, order=self.order, held_out_examples=self.held_out_examples
    )
    checks.check_at_least("markov_chains", 2, vocab_size=self.vocab_size)
    if self.beta <= 0:
      raise ValueError(f"markov_chains needs beta > 0; got {self.beta}")


def example(
  key: PRNGKeyArray, config: MarkovChainsConfig, length: int
) -> dict[str, Array]:
  """One sequence; see `batch`."""
  W, k, beta = config.vocab_size, config.order, config.beta
  chain_key, start_key, tokens_key = jax.random.split(key, 3)
  chain = jax.random.dirichlet(chain_key, jnp.full(W, beta), (W**k,))
  start = jax.random.randint(start_key, (k,), 0, W)

  def step(carry, key):
    context, counts = carry  # The last k tokens as a number of base W.
    optimum = counts[context] / counts[context].sum()
    token = jax.random.categorical(key, jnp.log(chain[context]))
    counts = counts.at[context, token].add(1)
    return (context * W % W**k + token, counts), (token, optimum)

  context = jnp.sum(start * W ** jnp.arange(k)[::-1])
  keys = jax.random.split(tokens_key, length + 1 - k)
  first = context, jnp.full((W**k, W), beta)
  _, (tokens, optimum) = jax.lax.scan(step, first, keys)
  after_start = lambda x: jnp.pad(x, ((k - 1, 0), *((0, 0),) * (x.ndim - 1)))
  return dict(
    inputs=jnp.concatenate([start, tokens])[:-1],
    targets=after_start(tokens),
    weights=after_start(jnp.ones(len(tokens))),
    segment_ids=jnp.ones(length, jnp.int32),
    optimum=after_start(optimum),
  )


def batch(
  keys: PRNGKeyArray, config: MarkovChainsConfig, length: int
) -> dict[str, Array]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least `order`.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids [B, T], and
    optimum [B, T, W].

  Raises:
    ValueError: If no token has a context.
  """
  checks.check_at_least("markov_chains", config.order, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
