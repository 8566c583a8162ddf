"""S5 (Smith et al. 2022, arXiv:2208.04933).

    dh/dt = Lambda h + B x,   y = 2 Re(C h) + D x             discretised by steps of dt
    output = GELU(y) * sigmoid(GELU(y) W + b)

One diagonal system with many inputs and outputs (sec. 3). Lambda begins with the
eigenvalues of the normal part of HiPPO-LegS, in blocks (sec. 3.2, appendix B.1); one
state of each conjugate pair is kept. The gate is the authors' activation of an S5 layer
(appendix G.1, "half_glu1" in their code). Re Lambda is kept below -1e-4 (their
"clip_eigs"), so that the recurrence never grows. With `bidirectional` a second C reads
the states of the same system run from the last token to the first.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from jaxseq import layers, ops
from jaxseq.layers import time_scales
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.ssm import discretize, hippo

__all__ = ["S5"]


class S5(Mixer):
  """A diagonal linear system over all channels.

  Attributes:
    state_size: States P of the system, P / 2 of them kept.
    num_blocks: Blocks J of HiPPO-LegS that Lambda begins with.
    discretization: A key of `discretize.RULES`.
    bidirectional: Whether outputs depend on later inputs too. Then there is no state.
    dt_min: Least initial step size.
    dt_max: Largest initial step size.
  """

  state_size: int = 64
  num_blocks: int = 4
  discretization: str = "zero_order_hold"
  bidirectional: bool = False
  dt_min: float = 0.001
  dt_max: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    if self.state_size % (2 * self.num_blocks):
      raise ValueError(
        f"S5 needs num_blocks that divide state_size / 2 = {self.state_size / 2:g}; "
        f"got {self.num_blocks}"
      )
    if self.discretization not in discretize.RULES:
      raise ValueError(
        f"S5 needs discretization in {tuple(discretize.RULES)}; "
        f"got {self.discretization!r}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    if self.bidirectional:
      self.refuse_state(state)
    x = ops.segments.clear_padding(x, segment_ids)
    y, state = self._system(x, state, segment_ids)
    y = nn.gelu(y.astype(self.dtype))
    gate = layers.projection(
      self.features,
      ("embed", "embed_out"),
      use_bias=True,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="gate",
    )
    y = (y * nn.sigmoid(gate(y))).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), state

  def _system(self, x, state, segment_ids):
    """2 Re(C h) + D x, and the last h."""
    param = functools.partial(self._param, self.state_size // 2)
    real, imaginary = param("lambda_real"), param("lambda_imaginary")
    eigenvalues = jnp.minimum(real, -1e-4) + 1j * imaginary
    B, C = param("B"), param("C")  # [N, D, 2] and [D, N, 2]: real, imaginary.
    a, b = discretize.RULES[self.discretization](eigenvalues, jnp.exp(param("log_dt")))
    product = lambda spec, x, w: ops.product(spec, x, w, like=x.astype(self.dtype))
    driven = product("btd,ndc->btnc", x, B)
    driven = b * jax.lax.complex(driven[..., 0], driven[..., 1])
    recur = functools.partial(
      ops.diagonal_recurrence,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    read = lambda h, C: (
      product("btn,dn->btd", h.real, C[..., 0])
      - product("btn,dn->btd", h.imag, C[..., 1])
    )
    h, last = recur(a, driven, initial_state=state)
    y = read(h, C)
    if self.bidirectional:
      later, last = recur(a, driven, reverse=True)[0], None
      y += read(later, param("C_backward"))
    return 2 * y + param("D") * x.astype(jnp.float32), last

  def _param(self, num_states, name):
    inits = _initializers(self.features, num_states, self.num_blocks)
    step = time_scales.log_step_init(self.dt_min, self.dt_max)
    inits["log_dt"] = ("heads",), (num_states,), step
    axes, shape, init = inits[name]
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, shape, self.param_dtype)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Complex[Array, "B N"]:
    if self.bidirectional:
      return super().initial_state(batch_size)
    return jnp.zeros((batch_size, self.state_size // 2), jnp.complex64)


def _initializers(features, num_states, num_blocks):
  """By name: axes, shape and initializer of each parameter."""
  size = 2 * num_states // num_blocks
  eigenvalues, vectors = hippo.normal_legs_eigenvectors(size)
  kept = size // 2
  eigenvalues = np.tile(eigenvalues[:kept], num_blocks)
  vectors = np.kron(np.eye(num_blocks), vectors[:, :kept])  # [2N, N], unitary columns.
  pair = lambda z: jnp.stack([z.real, z.imag], axis=-1)

  def input_matrix(key, shape, dtype):
    """V^-1 B with B of LeCun's normal."""
    init = nn.initializers.lecun_normal(in_axis=1, out_axis=0)
    B = init(key, (2 * num_states, features), jnp.float32)
    return pair(jnp.asarray(vectors.conj().T, jnp.complex64) @ B).astype(dtype)

  def output_matrix(key, shape, dtype):
    """C V with complex C of LeCun's normal."""
    init = nn.initializers.lecun_normal(in_axis=1, out_axis=0)
    real, imaginary = (
      init(k, (features, 2 * num_states), jnp.float32) for k in jax.random.split(key)
    )
    C = jax.lax.complex(real, imaginary)
    return pair(C @ jnp.asarray(vectors, jnp.complex64)).astype(dtype)

  constant = lambda value: lambda key, shape, dtype: jnp.asarray(value, dtype)
  return {
    "lambda_real": (("heads",), (num_states,), constant(eigenvalues.real)),
    "lambda_imaginary": (("heads",), (num_states,), constant(eigenvalues.imag)),
    "B": (("heads", "embed", None), (num_states, features, 2), input_matrix),
    "C": (("embed", "heads", None), (features, num_states, 2), output_matrix),
    "C_backward": (("embed", "heads", None), (features, num_states, 2), output_matrix),
    "D": (("embed",), (features,), nn.initializers.normal(1.0)),
  }
