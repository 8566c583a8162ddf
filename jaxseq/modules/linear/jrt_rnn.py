"""JRT-RNN: just read twice (Arora et al. 2024, arXiv:2407.05483, sec. 4).

o_i = sum_j p(q_i, k_j) v_j + sum_m p(q_i, k'_m) v'_m,     j <= i and m < M

with weights of the Taylor features of Based, all divided by their sum. The first M
tokens, such as a prompt, are read in both directions, by keys and values of their own;
from there it is a recurrence. The paper trains the prefix with a loss of masked tokens
beside that of next tokens, as its outputs see what comes next.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import ops
from jaxseq.layers import feature_maps
from jaxseq.modules.linear.based import Based

__all__ = ["JRTRNN"]


class JRTRNN(Based):
  """Linear attention that reads a prefix of each document in both directions.

  Attributes:
    feature_size: Width K of a query or key, which has about K^2 / 2 features.
  """

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B T D"],
    state: ops.LinearAttentionState | None = None,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    prefix_length: Int[Array, "B"] | None = None,
  ) -> tuple[Float[Array, "B T D"], ops.LinearAttentionState]:
    """Mixes tokens with those before them and with their prefix.

    Args:
      x: Inputs.
      state: What the tokens before left, prefix included: it has to be in one call.
      segment_ids: Packed documents; see `ops.segments`.
      prefix_length: M of each row; see `ops.prefix_linear_attention`. 0 if None, which
        makes the layer causal.
    """
    x = ops.segments.clear_padding(x, segment_ids)
    q, k, v = self._heads(x)
    heads = lambda y: y.reshape(*x.shape[:2], self.num_heads, -1)
    k_prefix = heads(self._project(x, self.num_heads * self.key_size, "k_prefix"))
    v_prefix = heads(self._project(x, self.num_heads * self.value_size, "v_prefix"))
    if prefix_length is None:
      prefix_length = jnp.zeros(x.shape[0], jnp.int32)
    o, state = ops.prefix_linear_attention(
      feature_maps.taylor(q),
      feature_maps.taylor(k),
      v,
      feature_maps.taylor(k_prefix),
      v_prefix,
      prefix_length,
      initial_state=state,
      segment_ids=segment_ids,
      scale=1.0,
      epsilon=self.least_denominator,
      implementation=self.implementation,
    )
    return self._output(o, x, segment_ids), state
