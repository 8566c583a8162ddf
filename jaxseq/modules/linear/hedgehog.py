"""Hedgehog (Zhang et al. 2024, arXiv:2402.04347, sec. 4).

phi(x) = [softmax(W x), softmax(-W x)]          W learned, of each head; q and k apart
o_t = sum_j phi(q_t)^T phi(k_j) v_j / sum_j phi(q_t)^T phi(k_j),   j <= t

The maps can be taught the weights of softmax attention with the same queries and keys:

    _, sown = mixer.apply(params, x, mutable="distillation")
    loss = sown["distillation"]["loss"][0]
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import ops
from jaxseq.layers import feature_maps
from jaxseq.modules.linear.linear_transformer import LinearTransformer

__all__ = ["Hedgehog", "distillation_loss"]


class Hedgehog(LinearTransformer):
  """Attention by learned features that mimic softmax."""

  use_bias = False

  @property
  def num_features(self) -> int:
    return 2 * self.key_size

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    q, k, v = self._heads(ops.segments.clear_padding(x, segment_ids))
    phi_q = feature_maps.Hedgehog(param_dtype=self.param_dtype, name="map_q")(q)
    phi_k = feature_maps.Hedgehog(param_dtype=self.param_dtype, name="map_k")(k)
    if self.is_mutable_collection("distillation") and not self.is_initializing():
      loss = distillation_loss(q, k, phi_q, phi_k, segment_ids)
      self.sow("distillation", "loss", loss)
    o, state = self._attend(phi_q, phi_k, v, state, segment_ids)
    return self._output(o, x, segment_ids), state


def distillation_loss(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  phi_q: Float[Array, "B T H F"],
  phi_k: Float[Array, "B T H F"],
  segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, ""]:
  """Cross-entropy of the weights of linear attention with those of softmax (eq. 6).

  - sum_j softmax_j(q_i^T k_j / sqrt(K)) log(phi(q_i)^T phi(k_j) / its sum over j)

  over j <= i in the same document, in nats, its mean over heads and real tokens. The
  gradient flows to the features alone. T x T weights are made.
  """
  B, T, H, K = q.shape
  ids = jnp.ones((B, T), jnp.int32) if segment_ids is None else segment_ids
  valid, _, index = ops.segments.parse(ids)
  mask = jnp.tril(jnp.ones((T, T), bool)) & (index[:, :, None] == index[:, None])
  mask = (mask & valid[:, None])[:, None]
  q, k, phi_q, phi_k = (y.astype(jnp.float32) for y in (q, k, phi_q, phi_k))
  scores = ops.product("bthk,bshk->bhts", q, k, like=q) * K**-0.5
  teacher = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
  teacher = jax.lax.stop_gradient(teacher)
  kernel = ops.product("bthf,bshf->bhts", phi_q, phi_k, like=phi_q)
  total = jnp.sum(jnp.where(mask, kernel, 0), axis=-1, keepdims=True)
  log_student = jnp.log(jnp.where(mask, kernel / total, 1))
  losses = -jnp.sum(teacher * log_student, axis=-1)  # [B, H, T]
  count = H * jnp.maximum(jnp.sum(valid), 1)
  return jnp.sum(jnp.where(valid[:, None], losses, 0)) / count
