"""Sparse State Expansion (SSE, Pan et al. 2025, arXiv:2507.16577).

e_t = softmax(x_t W_e),   partitions i in topk(e_t)
k_t = softmax(x_t W_k)                             each row of a state is a class
S_t^i = diag(exp(g_t)) S_{t-1}^i + e_ti k_t v_t^T,     the other states stay
y_t = (norm(sum_i e_ti (S_t^i)^T q_t) * silu(gate_t)) W_o
q, v = silu(x W),   g_t = log sigmoid(gate_t) / 16

All partitions have the same parameters, so that their number adds next to none. As in
the public layer there is one more that every token writes and reads, with decays of its
own and with e = 1; queries and keys of the others differ from its by a product of low
rank, and gates are of low rank too.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import routing
from jaxseq.modules.mixer import Mixer

__all__ = ["SparseStateExpansion"]


class SparseStateExpansion(Mixer):
  """Gated linear attention with many states, few of which a token writes and reads.

  Attributes:
    num_heads: Heads H.
    num_partitions: States N, besides the one of all tokens.
    num_active: States that a token writes and reads, besides that one.
    gate_rank: Inner width of the decay's projection.
    gate_normalizer: What log sigmoid is divided by: decays begin near 1.
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  num_partitions: int = 4
  num_active: int = 1
  gate_rank: int = 16
  gate_normalizer: float = 16.0
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"SparseStateExpansion needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )
    if not 1 <= self.num_active <= self.num_partitions:
      raise ValueError(
        "SparseStateExpansion needs num_active from 1 to num_partitions = "
        f"{self.num_partitions}; got {self.num_active}"
      )

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    kind = x.dtype
    x = ops.segments.clear_padding(x, segment_ids)

    def project(x, width, name, axes=("embed", "heads"), use_bias=False):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(width, axes, use_bias=use_bias, name=name, **types)(x)

    def low_rank(rank, name, use_bias=False):
      y = project(x, rank, f"{name}_down", ("embed", None))
      return project(y, self.features, f"{name}_up", (None, "heads"), use_bias)

    def decay(name):
      gate = low_rank(self.gate_rank, name, use_bias=True).astype(jnp.float32)
      return nn.log_sigmoid(gate) / self.gate_normalizer

    router = routing.Router(
      self.num_partitions, self.num_active, self.param_dtype, name="router"
    )
    e, route = router(x, segment_ids)
    shared = jnp.full_like(route[..., :1], self.num_partitions)  # Its number.
    route = jnp.concatenate([route, shared], axis=2)

    def routes(chosen, shared):
      """[B, T, R, H, K]: of each partition that was chosen, and of the shared one."""
      heads = lambda y: y.reshape(*x.shape[:2], 1, self.num_heads, self.head_size)
      chosen = jnp.repeat(heads(chosen), self.num_active, axis=2)
      return jnp.concatenate([chosen, heads(shared)], axis=2)

    e = jnp.pad(e, ((0, 0), (0, 0), (0, 1)), constant_values=1)[..., None, None]
    q, k, v = (project(x, self.features, name) for name in "qkv")
    q = e * nn.silu(routes(q + low_rank(self.head_size, "q_change"), q))
    k = routes(k + low_rank(self.head_size, "k_change"), k).astype(jnp.float32)
    o, state = ops.routed_diagonal_decay(
      q.astype(self.dtype),
      (e * jax.nn.softmax(k)).astype(self.dtype),
      nn.silu(routes(v, v)),
      routes(decay("decay"), decay("shared_decay")),
      route,
      self.num_partitions + 1,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=(None,), param_dtype=self.param_dtype, name="norm"
    )
    o = norm(o.sum(axis=2)).reshape(x.shape)
    o *= nn.silu(low_rank(self.head_size, "gate"))
    y = project(o, self.features, "out", ("heads", "embed")).astype(kind)
    return y, state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B M H K V"]:
    shape = (self.num_partitions + 1, self.num_heads, self.head_size, self.head_size)
    return jnp.zeros((batch_size, *shape))
