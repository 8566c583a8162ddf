"""LMUFormer, and its spiking kind (Liu et al. 2024, arXiv:2402.04882, sec. 4).

    a = norm(LMU(x) W + b),   z = x + a
    f = relu(norm(gelu(norm(z W_1 + b_1)) W_2 + b_2))        its conv, of width 1
    y = z + f

    s = fire(norm(x)),   u = fire(s W_u + b_u),   m = memory of u           spiking
    a = norm(fire(norm([fire(norm(m)), s] W_h + b_h)) W + b),   z = x + a
    f = fire(norm(fire(norm(z)) W_1 + b_1)) W_2 + b_2

The memory is `ops.ssm.legendre_delay`; neurons are leaky, tau = 2, and reset to zero
without a gradient. A mixer gives what the block adds to its input, y - x: take no MLP.

The authors normalise over batch and time, which would show a token what comes after it;
here a norm is by a token's own root mean square, with a scale and a shift, and that of
the single channel u is in its matrix and bias, which begins so high that u fires about
every other token. Their spikes count as sigmoids in the backward pass, ours as arctans.
Rounded products would move spikes, so those of the spiking mixer are float32 whatever
`dtype` is.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.ssm.lmu import LMU
from jaxseq.ops.ssm import legendre_delay

__all__ = ["LMUFormer", "SpikingLMUFormer", "SpikingLMUFormerState"]

TAU = 2.0  # Time constant of the neurons, in tokens.
CURRENT = 1.5  # Charges an empty neuron to the threshold of 1 in two tokens.


class LMUFormer(Mixer):
  """A Legendre memory unit and an MLP.

  Attributes:
    window: Tokens that the memory reaches back.
    expand: Inner width of the MLP, as a multiple of `features`.
  """

  window: float = 128.0
  expand: int = 4

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    D, project = self.features, functools.partial(_project, self, self.dtype)
    lmu = LMU(
      D,
      self.implementation,
      self.dtype,
      self.param_dtype,
      memory_size=D,
      window=self.window,
      name="lmu",
    )
    h, state = lmu(x, state, segment_ids=segment_ids)
    a = _norm(self, "mixed", project("mixed", h, D, ("embed", "embed_out")))
    inner = project("up", x + a, self.expand * D, ("embed", "mlp"))
    f = project("down", nn.gelu(_norm(self, "up", inner)), D, ("mlp", "embed"))
    y = (a + nn.relu(_norm(self, "down", f))).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B 1 N"]:
    return jnp.zeros((batch_size, 1, self.features))


class SpikingLMUFormerState(NamedTuple):
  """What the spiking mixer carries: the memory, and the neurons' potentials."""

  memory: Float[Array, "B 1 N"]
  membranes: dict[str, Float[Array, "B _"]]


class SpikingLMUFormer(Mixer):
  """A Legendre memory unit and an MLP between which spikes alone pass.

  Attributes:
    window: Tokens that the memory reaches back.
    expand: Inner width of the MLP, as a multiple of `features`.
  """

  window: float = 128.0
  expand: int = 4

  @property
  def widths(self) -> dict[str, int]:
    """Of each layer of neurons. The memory has twice the features."""
    D = self.features
    return dict(input=D, u=1, memory=2 * D, hidden=D, up=D, down=self.expand * D)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    state = self.initial_state(len(x)) if state is None else state
    D, membranes = self.features, {}
    project = functools.partial(_project, self, jnp.float32)
    z = ops.segments.clear_padding(x, segment_ids).astype(jnp.float32)

    def fire(name, current, threshold=1.0):
      spikes, membranes[name] = ops.lif(
        current / TAU,
        decay=1 - 1 / TAU,
        threshold=threshold,
        detach_reset=True,
        initial_state=state.membranes[name],
        segment_ids=segment_ids,
      )
      self.show(**{f"{name}_spikes": spikes})
      return spikes

    s = fire("input", _norm(self, "input", z), threshold=0.5)
    u = fire("u", project("u", s, 1, ("embed", None), CURRENT))
    m, memory = ops.dense_recurrence(
      u,
      *legendre_delay.legendre_delay(2 * D, self.window),
      initial_state=state.memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    m = fire("memory", _norm(self, "memory", m[:, :, 0]))
    both = jnp.concatenate([m, s], axis=-1)
    h = project("hidden", both, D, ("embed", "heads"))
    h = fire("hidden", _norm(self, "hidden", h))
    a = _norm(self, "mixed", project("mixed", h, D, ("heads", "embed")))
    spikes = fire("up", _norm(self, "up", z + a))
    inner = project("up", spikes, self.expand * D, ("embed", "mlp"))
    spikes = fire("down", _norm(self, "down", inner))
    y = (a + project("down", spikes, D, ("mlp", "embed"))).astype(x.dtype)
    y = ops.segments.clear_padding(y, segment_ids)
    return y, SpikingLMUFormerState(memory, membranes)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> SpikingLMUFormerState:
    zeros = lambda width: jnp.zeros((batch_size, width))
    memory = jnp.zeros((batch_size, 1, 2 * self.features))
    return SpikingLMUFormerState(memory, {n: zeros(w) for n, w in self.widths.items()})


def _project(mixer, dtype, name, x, width, axes, bias=0.0):
  return layers.projection(
    width,
    axes,
    use_bias=True,
    bias_init=nn.initializers.constant(bias),
    dtype=dtype,
    param_dtype=mixer.param_dtype,
    name=name,
  )(x)


def _norm(mixer, name, x):
  """A norm of each token, with scale and shift, as a batch norm has them."""
  zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("heads",))
  shift = mixer.param(f"{name}_shift", zeros, x.shape[-1:], mixer.param_dtype)
  norm = layers.RMSNorm(
    axes=("heads",), param_dtype=mixer.param_dtype, name=f"{name}_norm"
  )
  return (norm(x.astype(jnp.float32)) + shift).astype(x.dtype)
