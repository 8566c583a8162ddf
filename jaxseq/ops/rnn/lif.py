"""Leaky integrate-and-fire neurons, and the gradient that is put in a spike's place.

    u_t = decay v_{t-1} + x_t                                  elementwise; state v [N]
    s_t = 1 where u_t >= threshold, else 0
    v_t = u_t (1 - s_t)                       reset "hard"
    v_t = u_t - threshold s_t                 reset "soft"

A step has no useful derivative. Backward it counts as arctan(pi alpha x / 2) / pi + 1/2
(Fang et al. 2020, arXiv:2007.05785; surrogates: Neftci et al. 2019, arXiv:1901.09948),
so that

    ds/du = alpha / 2 / (1 + (pi alpha (u - threshold) / 2)^2)
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, dispatch, segments
from jaxseq.ops.dispatch import Form
from jaxseq.ops.rnn import cells

__all__ = ["IMPLEMENTATIONS", "RESETS", "lif", "spike"]

RESETS = ("hard", "soft")


def lif(
  x: Float[Array, "B T N"],
  *,
  decay: float = 0.5,
  threshold: float = 1.0,
  reset: str = "hard",
  detach_reset: bool = False,
  alpha: float = 2.0,
  initial_state: Float[Array, "B N"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T N"], Float[Array, "B N"]]:
  """Charges a membrane with each channel's inputs, and fires where it is full.

  Args:
    x: Currents, already scaled: neurons of time constant tau that let the current decay
      too have decay = 1 - 1 / tau and x / tau.
    decay: What is left of the membrane's potential at each token.
    threshold: Potential that fires.
    reset: One of `RESETS`: a neuron that has fired begins at zero, or keeps what it had
      over the threshold.
    detach_reset: Whether the reset has no gradient, the authors' way in some networks.
    alpha: Steepness of the arctan in the gradient.
    initial_state: Potentials before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto". A reset depends on all that
      was before, so no form but the recurrent one is exact.

  Returns:
    Spikes, 0 or 1 in the dtype of `x`, and the last potentials in float32.

  Raises:
    ValueError: If shapes do not fit, or the reset or implementation is unknown.
  """
  sizes = checks.check_shapes(
    "lif",
    x=(x, "B T N"),
    initial_state=(initial_state, "B N"),
    segment_ids=(segment_ids, "B T"),
  )
  if reset not in RESETS:
    raise ValueError(f"lif needs reset in {RESETS}; got {reset!r}")
  B, T, N = (sizes[letter] for letter in "BTN")
  kind = jnp.promote_types(x.dtype, jnp.float32)
  state = jnp.zeros((B, N)) if initial_state is None else initial_state
  currents = segments.clear_padding(x, segment_ids).astype(kind)
  if segment_ids is None:
    segment_ids = jnp.ones((B, T), jnp.int32)
  args = (currents, state.astype(kind), segments.parse(segment_ids))
  run = dispatch.select("lif", IMPLEMENTATIONS, implementation, T, *args)
  spikes, last = run(
    *args,
    decay=decay,
    threshold=threshold,
    reset=reset,
    detach_reset=detach_reset,
    alpha=alpha,
  )
  return spikes.astype(x.dtype), last


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def spike(x: Float[Array, "..."], alpha: float = 2.0) -> Float[Array, "..."]:
  """1 where x >= 0, else 0, with the gradient of an arctan.

  Args:
    x: Any numbers, such as potentials over a threshold, or embeddings to be made binary
      (SpikeGPT).
    alpha: Steepness of the arctan; the gradient at 0 is alpha / 2.
  """
  return (x >= 0).astype(x.dtype)


@spike.defjvp
def _spike_jvp(alpha, primals, tangents):
  (x,), (dx,) = primals, tangents
  slope = alpha / 2 / (1 + (math.pi / 2 * alpha * x) ** 2)
  return spike(x, alpha), slope * dx


def recurrent(currents, state, parsed, *, decay, threshold, reset, detach_reset, alpha):
  """The definition."""

  def step(v, token):
    x, valid, start = token
    u = decay * jnp.where(start[:, None], 0, v) + x
    s = spike(u - threshold, alpha)
    fired = jax.lax.stop_gradient(s) if detach_reset else s
    after = u * (1 - fired) if reset == "hard" else u - threshold * fired
    return jnp.where(valid[:, None], after, v), jnp.where(valid[:, None], s, 0)

  tokens = jax.tree.map(
    lambda x: x.swapaxes(0, 1), (currents, parsed.valid, parsed.starts)
  )
  last, spikes = jax.lax.scan(
    step, state, tokens, unroll=cells.UNROLL[dispatch.platform()]
  )
  return spikes.swapaxes(0, 1), last


IMPLEMENTATIONS = {"recurrent": Form(recurrent)}
