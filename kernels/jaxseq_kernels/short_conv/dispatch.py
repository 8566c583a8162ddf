"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import jax.numpy as jnp

from jaxseq_kernels.short_conv import pallas_gpu, pallas_tpu, vjp

__all__ = ["fused", "refusal"]

# Of time and channels, to which arrays are padded.
MULTIPLES = {
  "tpu": (pallas_tpu.TOKENS, pallas_tpu.LANES),
  "gpu": (pallas_gpu.TOKENS, pallas_gpu.CHANNELS),
}

MAX_TAPS = 9  # The kernels keep 8 rows of the block before.


def fused(x, weight, bias, reach, *, activation, backend, interpret=False):
  """The convolution from an empty state, differentiable in x, weight and bias.

  Args:
    x: [B, T, D], float32 or bfloat16.
    weight: [W, D]; the last tap is the current token's.
    bias: [D].
    reach: [B, T] int32, earlier tokens that each token sees, in [0, min(t, W - 1)], or
      -1 at padding, of which nothing is read; None if all see min(t, W - 1).
    activation: None or "silu".
    backend: "tpu" or "gpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.

  Returns:
    y [B, T, D] in the dtype of x.
  """
  T, D = x.shape[1:]
  tokens, channels = MULTIPLES[backend]
  time, width = (0, -T % tokens), (0, -D % channels)
  x = jnp.pad(x, ((0, 0), time, width))
  weight, bias = jnp.pad(weight, ((0, 0), width)), jnp.pad(bias, (width,))
  if reach is not None:
    reach = jnp.pad(reach, ((0, 0), time))
  y = vjp.convolve(x, weight, bias, reach, activation, backend, interpret)
  return y[:, :T, :D]


def refusal(x, weight, bias, reach, *, backend) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  if x.dtype not in (jnp.float32, jnp.bfloat16):
    return f"it needs float32 or bfloat16, not {x.dtype}"
  if weight.shape[0] > MAX_TAPS:
    return f"it needs at most {MAX_TAPS} taps, not {weight.shape[0]}"
  return None
