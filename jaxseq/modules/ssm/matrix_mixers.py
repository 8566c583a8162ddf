"""The matrix mixers that Hydra is compared with (Hwang et al. 2024, arXiv:2407.09941).

v = silu(conv(x W_v) + b),   z = x W_z          7 taps, looking both ways
o = s M v + v                                   M is T x T, one for each head
y = (norm(o) * silu(z)) W_o

where M has one of these structures, i and j being places in the document (sec. 2):

    dense             softmax_j(q_i^T k_j / sqrt(N)), or if not aligned a free W_ij
    Toeplitz          a_{i-j} if j <= i, else b_{j-i}
    Vandermonde       sum_n cos(w q_in j) - cos(w k_jn i)
    Cauchy            sum_n 1 / (exp(q_in) + exp(k_jn) + c)
    low rank          q_i^T k_j
    semiseparable     C_i^T B_j dt_j exp(-A (dt_{j+1} + ... + dt_i)) if j <= i
    quasiseparable    the same shifted by one, from both ends, and a diagonal

(The last two have neither s nor the v that is added: their diagonals do as much.)

A matrix is aligned with the sequence if q_i, k_i and the like come from x, by a
projection and a convolution of their own; so it grows with the document and fits all
lengths. If it is not, they are parameters, one for each of `max_length` places.

Details are those of the authors' code, but for these. Their Toeplitz kernel stands one
place off. Their Vandermonde matrix that is not aligned is the real part of the DFT,
without parameters, or else adds its halves, where the aligned one subtracts them, and
begins at q = k = 0, where the gradient is zero; ours subtracts, and begins at random
frequencies. The semiseparable mixer is not in their code: it is the causal part of
Mamba-2, with D as a number for each head, in this block.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.layers import linear_init, time_scales
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.ssm import hydra

__all__ = [
  "CauchyMixer",
  "DenseMixer",
  "LowRankMixer",
  "QuasiseparableMixer",
  "SemiseparableMixer",
  "ToeplitzMixer",
  "VandermondeMixer",
]

identity = lambda x: x


class DenseMixer(Mixer):
  """Mixes by a matrix without structure: softmax attention, or free weights.

  Attributes:
    aligned: Whether the matrix is made from the sequence. If not, it is a parameter and
      `implementation` is that of `ops.dense_matrix`.
    num_heads: Heads H. If None, so many that a head has 128 channels, but at least 4.
    expand: Width of all heads' channels, as a multiple of `features`.
    key_size: N, numbers of a row and of a column of the matrix, in each head. (A
      Toeplitz matrix has one, and free weights need none.)
    max_length: Tokens of a document for which the scale s is made. If not aligned, a
      call may not have more.
    norm_epsilon: Of the norm.
  """

  aligned: bool = True
  num_heads: int | None = None
  expand: int = 2
  key_size: int = 16
  max_length: int = 128
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.width % self.heads:
      raise ValueError(
        f"{type(self).__name__} needs num_heads that divide expand x features = "
        f"{self.width}; got {self.heads}"
      )

  @property
  def width(self) -> int:
    return self.expand * self.features

  @property
  def heads(self) -> int:
    return self.num_heads or max(4, self.width // 128)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    B, T, _ = x.shape
    if not self.aligned and T > self.max_length:
      raise ValueError(
        f"{type(self).__name__} that is not aligned needs max_length of at least the "
        f"{T} tokens of a call; got {self.max_length}"
      )
    u = ops.segments.clear_padding(x, segment_ids)
    v = nn.silu(self._convolved(u, "v", self.width, segment_ids)).astype(self.dtype)
    o = self._mix(u, v.reshape(B, T, self.heads, -1), segment_ids)
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=("heads",), param_dtype=self.param_dtype, name="norm"
    )
    # The gate is zero at padding, where the convolutions' biases leave something.
    o = norm(o.reshape(B, T, self.width)) * nn.silu(self._project(u, "z", self.width))
    y = self._project(o, "out", self.features, ("heads", "embed")).astype(x.dtype)
    return y, None

  def _mix(self, u, v, segment_ids):
    """o [B, T, H, V] from the values; the rest comes from the inputs u [B, T, D]."""
    if self.aligned:
      # The authors' bias of k is left out: a softmax over j does not see it.
      q, k = self._rows_and_columns(u, segment_ids, k_bias=False)
      o, _ = ops.softmax_attention(
        q.astype(self.dtype),
        k.astype(self.dtype),
        v,
        causal=False,
        segment_ids=segment_ids,
        implementation=self.implementation,
      )
      return o + v
    H, M = self.heads, self.max_length
    init = nn.initializers.normal((2 / (M * (M + H))) ** 0.5)
    weights = self._param("weights", init, (H, M, M), ("heads", None, None))
    return self._apply(ops.dense_matrix, M**-0.5, v, weights, segment_ids=segment_ids)

  def _apply(self, op, scale, v, *arrays, segment_ids, **options):
    """s M v + v by an op that takes the values first."""
    o = op(
      v,
      *arrays,
      segment_ids=segment_ids,
      implementation=self.implementation,
      **options,
    )
    return (scale * o.astype(jnp.float32) + v).astype(v.dtype)

  def _rows_and_columns(
    self, u, segment_ids, activation=identity, init=None, k_bias=True
  ):
    """q and k, [B, T, H, N] in float32."""
    shape = self.heads, self.key_size
    return tuple(
      self._numbers(u, name, shape, segment_ids, activation, init, use_bias)
      for name, use_bias in (("q", True), ("k", k_bias))
    )

  def _numbers(self, u, name, shape, segment_ids, activation, init=None, use_bias=True):
    """Numbers [B, T, *shape] of each token, or of its place. Heads come first."""
    B, T, _ = u.shape
    if self.aligned:
      numbers = self._convolved(u, name, math.prod(shape), segment_ids, use_bias)
      return activation(numbers).reshape(B, T, *shape)
    fans = shape[-1] * (self.max_length + shape[0])
    init = init or nn.initializers.normal((2 / fans) ** 0.5)
    axes = (None, "heads") + (None,) * (len(shape) - 1)
    numbers = self._param(name, init, (self.max_length, *shape), axes)
    place = ops.segments.positions(segment_ids, jnp.zeros(B, jnp.int32), (B, T))
    return numbers[place].astype(jnp.float32)

  def _convolved(self, u, name, width, segment_ids, use_bias=True):
    """Projected and mixed with the tokens around, in float32."""
    y = self._project(u, name, width)
    taps = (hydra.CONV_SIZE, width)
    weight = self._param(f"{name}_conv", linear_init.kernel_init, taps, (None, "heads"))
    y = layers.depthwise_conv(y, weight, segment_ids=segment_ids)
    if use_bias:
      y += self._param(
        f"{name}_conv_bias",
        linear_init.bias_init(hydra.CONV_SIZE),
        (width,),
        ("heads",),
      )
    return y

  def _project(self, x, name, width, axes=("embed", "heads")):
    return layers.projection(
      width,
      axes,
      kernel_init=linear_init.kernel_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)


class ToeplitzMixer(DenseMixer):
  """Mixes by weights of the distance; aligned, token d brings those of distance d."""

  def _mix(self, u, v, segment_ids):
    H, M = self.heads, self.max_length
    kernels = self._numbers(
      u,
      "kernels",
      (H, 2),
      segment_ids,
      nn.silu,
      nn.initializers.normal((2 / (2 * M - 1 + H)) ** 0.5),
    )
    a, b = kernels[..., 0], kernels[..., 1]
    scale = 0.5 * M**-0.5
    return self._apply(ops.toeplitz_matrix, scale, v, a, b, segment_ids=segment_ids)


class VandermondeMixer(DenseMixer):
  """Mixes by waves over the places, whose frequencies are the tokens'."""

  def _mix(self, u, v, segment_ids):
    # In cycles a token; aligned in thousandths of them, which keeps training stable.
    q, k = self._rows_and_columns(u, segment_ids, init=nn.initializers.uniform(1.0))
    w = 2 * jnp.pi * (1e-3 if self.aligned else 1.0)
    scale = (2 * self.max_length * self.key_size) ** -0.5
    return self._apply(
      ops.vandermonde_matrix, scale, v, w * q, w * k, segment_ids=segment_ids
    )


class CauchyMixer(DenseMixer):
  """Mixes by one over sums of positive numbers, of rows and of columns."""

  def _mix(self, u, v, segment_ids):
    q, k = self._rows_and_columns(u, segment_ids)
    offset = 1e-8
    if self.aligned:  # A learned bias, of rows and of columns.
      offset += 2 * self._param("bias", nn.initializers.constant(0.5), (), ())
    scale = (self.max_length * self.key_size) ** -0.5
    return self._apply(
      ops.cauchy_matrix, scale, v, q, k, offset, segment_ids=segment_ids
    )


class LowRankMixer(DenseMixer):
  """Mixes by products of rows and columns: linear attention without a normaliser."""

  def _mix(self, u, v, segment_ids):
    q, k = self._rows_and_columns(u, segment_ids, nn.silu)
    o = ops.noncausal_linear_attention(
      q.astype(self.dtype),
      k.astype(self.dtype),
      v,
      segment_ids=segment_ids,
      scale=(self.max_length * self.key_size) ** -0.5,
      implementation=self.implementation,
    )
    return o + v


class SemiseparableMixer(DenseMixer):
  """Mixes by the matrix of a state space, which is lower triangular: Mamba-2's.

  All heads share B and C, of H N numbers. What a token sees of later ones is what the
  convolutions show it.
  """

  def _mix(self, u, v, segment_ids):
    q, k, dt, log_decay = self._system(u, 1, segment_ids)
    o, _ = ops.scalar_decay(
      q,
      k,
      (dt[:, :, 0, :, None] * v).astype(self.dtype),
      log_decay[:, :, 0],
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    return (o + self._of_heads("D", nn.initializers.ones)[:, None] * v).astype(v.dtype)

  def _system(self, u, directions, segment_ids):
    """C and B [B, T, 1, HN], dt and the log decays [B, T, directions, H]."""
    B, T, _ = u.shape
    H = self.heads
    N = H * self.key_size
    init = nn.initializers.normal((2 / (self.max_length + 2 * N)) ** 0.5)
    CB = self._numbers(u, "CB", (N, 2), segment_ids, nn.silu, init)
    q, k = jnp.moveaxis(CB.astype(self.dtype), -1, 0)[:, :, :, None]
    dt = jnp.zeros((B, T, directions, H))
    if self.aligned:
      dt = self._project(u, "dt", directions * H).reshape(dt.shape).astype(jnp.float32)
    dt = nn.softplus(dt + self._of_heads("dt_bias", time_scales.step_init))
    log_decay = -dt * jnp.exp(self._of_heads("A_log", nn.initializers.zeros))
    self.show(log_decay=log_decay[:, :, 0])
    return q, k, dt, log_decay

  def _of_heads(self, name, init):
    return self._param(name, init, (self.heads,), ("heads",))


class QuasiseparableMixer(SemiseparableMixer):
  """Mixes by the matrix of Hydra, with the same B and C in both directions."""

  def _mix(self, u, v, segment_ids):
    q, k, dt, log_decay = self._system(u, 2, segment_ids)
    flat = v.reshape(*v.shape[:2], self.width)
    diagonal = self._project(flat, "D_input", self.heads, ("heads", None))
    diagonal = diagonal + self._of_heads("D", nn.initializers.ones)
    return ops.quasiseparable(
      jnp.stack([q, q], axis=2),
      (dt[..., None] * k[:, :, None]).astype(self.dtype),
      v,
      log_decay,
      diagonal,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
