"""The Fourier transform over time and channels of FNet (2105.03824, sec. 3.2).

    y = Re(F_T x F_D),    (F_n)_ij = exp(-2 pi i j sqrt(-1) / n)

without a factor. With the real and the imaginary part of x F_D = U + sqrt(-1) V,

    y_i = sum_j cos(2 pi i j / n) U_j + sin(2 pi i j / n) V_j

over the n tokens j of the document of token i, i and j counted from 0. So packed
documents, each with a transform of its own length, are mixed by two T x T matrices.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, dispatch, documents
from jaxseq.ops.dispatch import Form
from jaxseq.ops.linear import structured_matrices

__all__ = ["IMPLEMENTATIONS", "fourier"]


def fourier(
  x: Float[Array, "B T D"],
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T D"]:
  """The real part of the transform over tokens and channels.

  Args:
    x: Inputs.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `x`, zero at padding; sums are float32. There is no state.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  checks.check_shapes("fourier", x=(x, "B T D"), segment_ids=(segment_ids, "B T"))
  kind = jnp.promote_types(x.dtype, jnp.float32)
  over_channels = jnp.fft.fft(x.astype(kind), axis=-1)
  parts = jnp.stack([over_channels.real, over_channels.imag], axis=2)
  length = documents.counts(x.shape[:2], segment_ids).astype(jnp.int32)
  length = jnp.broadcast_to(length, x.shape[:2])
  inputs = structured_matrices.prepare(
    "fourier", _waves, parts, (length,), (), segment_ids
  )
  T = x.shape[1]
  run = dispatch.select("fourier", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs).astype(x.dtype)


def _waves(i, rows, j, columns):
  """Cosines and sines [B, R, S, 2], of angles below a turn."""
  (length,) = rows
  length = jnp.maximum(length, 1)[:, :, None]  # Padding has none.
  share = i[:, :, None] * j[:, None] % length / length
  return jnp.stack([jnp.cos(2 * jnp.pi * share), jnp.sin(2 * jnp.pi * share)], axis=-1)


def _by_matrices(form):
  return lambda inputs: jnp.sum(form(inputs), axis=2)


def fft(inputs):
  """The fast transform over the row."""
  real, imaginary = inputs.v[:, :, 0], inputs.v[:, :, 1]
  return jnp.fft.fft(real + 1j * imaginary, axis=1).real


def _packed(inputs):
  return "it takes one document a row, not segment_ids" if inputs.packed else None


recurrent = _by_matrices(structured_matrices.recurrent)
blockwise = _by_matrices(structured_matrices.blockwise)
parallel = _by_matrices(structured_matrices.parallel)

IMPLEMENTATIONS = {
  "fft": Form(fft, _packed),
  "parallel": Form(parallel, slow=structured_matrices.several_blocks),
  "blockwise": Form(blockwise),
  "recurrent": Form(recurrent),
}
