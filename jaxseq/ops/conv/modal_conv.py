"""The convolution with a filter that is a sum of modes: a diagonal state space.

    s_t = exp(log_poles) s_{t-1} + x_t                                        state [N]
    y_t = skip x_t + Re sum_n residues_n s_{n,t-1}

Its filter is h_0 = skip, h_l = Re sum_n residues_n exp(log_poles_n (l - 1)): the form
to which the Laughing Hyena distils any filter (Massaroli et al. 2023, arXiv:2310.18780,
sec. 3), and which H3's have by construction.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from jaxseq.ops import checks, dispatch, segments
from jaxseq.ops.conv import fft_conv, token_shift
from jaxseq.ops.dispatch import Form
from jaxseq.ops.ssm import diagonal_recurrence

__all__ = ["IMPLEMENTATIONS", "modal_conv", "modal_filter"]


def modal_conv(
  x: Float[Array, "B T D"],
  log_poles: Complex[Array, "D N"],
  residues: Complex[Array, "D N"],
  skip: Float[Array, "D"],
  *,
  initial_state: Complex[Array, "B D N"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T D"], Complex[Array, "B D N"]]:
  """Mixes each channel over all tokens so far, with a state of N numbers.

  Args:
    x: Inputs.
    log_poles: Natural logs of the poles; their real parts are <= 0. Not checked.
    residues: What each mode adds to the output. One mode stands for a pair of complex
      conjugates, whose residues are half of it.
    skip: The filter's first tap.
    initial_state: Before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto". "fft" makes T taps of the
      filter and never holds more than the last state; the others hold all states.

  Returns:
    Outputs in the dtype of `x`, summed in float32, and the state after the last token,
    complex64.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  sizes = checks.check_shapes(
    "modal_conv",
    x=(x, "B T D"),
    log_poles=(log_poles, "D N"),
    residues=(residues, "D N"),
    skip=(skip, "D"),
    initial_state=(initial_state, "B D N"),
    segment_ids=(segment_ids, "B T"),
  )
  shape = tuple(sizes[letter] for letter in "BDN")
  kind = jnp.promote_types(jnp.result_type(log_poles, residues), jnp.complex64)
  u = segments.clear_padding(x.astype(jnp.finfo(kind).dtype), segment_ids)
  state = jnp.zeros(shape, kind) if initial_state is None else initial_state
  args = (u, log_poles.astype(kind), residues.astype(kind), state, segment_ids)
  run = dispatch.select(
    "modal_conv", IMPLEMENTATIONS, implementation, sizes["T"], *args
  )
  y, last = run(*args)
  y = segments.clear_padding(y + skip.astype(u.dtype) * u, segment_ids)
  return y.astype(x.dtype), last


def modal_filter(
  log_poles: Complex[Array, "D N"],
  residues: Complex[Array, "D N"],
  skip: Float[Array, "D"],
  length: int,
) -> Float[Array, "L D"]:
  """The first taps of the filter.

  Args:
    log_poles: Natural logs of the poles.
    residues: What each mode adds.
    skip: The first tap.
    length: L.
  """
  taps = jnp.einsum("ldn,dn->ld", _powers(log_poles, length - 1), residues).real
  return jnp.concatenate([skip[None].astype(taps.dtype), taps])


def by_states(implementation, x, log_poles, residues, state, segment_ids):
  """The recurrence in a form of `diagonal_recurrence`, then the sum over the modes."""
  B, T, D = x.shape
  s, last = diagonal_recurrence.diagonal_recurrence(
    jnp.exp(log_poles).reshape(-1),
    jnp.repeat(x, log_poles.shape[1], axis=2),
    initial_state=state.reshape(B, -1),
    segment_ids=segment_ids,
    implementation=implementation,
  )
  read = lambda s: jnp.sum((s * residues).real, axis=-1)
  y, _ = token_shift.token_shift(read(s.reshape(B, T, D, -1)), read(state), segment_ids)
  return y, last.reshape(state.shape)


def fft(x, log_poles, residues, state, segment_ids):
  """`fft_conv` with T taps, and what the state adds to the outputs and is after."""
  B, T, D = x.shape
  powers = _powers(log_poles, T)  # [T, D, N], of 0 .. T - 1.
  taps = modal_filter(log_poles, residues, jnp.zeros(D, x.dtype), T + 1)
  y, inputs = fft_conv.fft_conv(x, taps, segment_ids=segment_ids)
  # The last T inputs of the last document, and how old each then is.
  last = jnp.einsum("btd,tdn->bdn", inputs, powers[::-1], precision="highest")
  of_state = jnp.einsum("bdn,tdn->btd", residues * state, powers, precision="highest")
  of_state, count, same = of_state.real, jnp.full(B, T), jnp.ones(B, bool)
  if segment_ids is not None:
    parsed = segments.parse(segment_ids)
    place = segments.positions(segment_ids, jnp.zeros(B, jnp.int32))
    first = (parsed.index == 0)[..., None]
    of_state = jnp.take_along_axis(of_state, jnp.maximum(place, 0)[..., None], axis=1)
    of_state = jnp.where(first, of_state, 0)
    same = parsed.index[:, -1] == 0
    count = jnp.sum(parsed.valid, axis=1)
  kept = jnp.exp(log_poles * count[:, None, None])
  return y + of_state, last + jnp.where(same[:, None, None], kept * state, 0)


def _powers(log_poles, length):
  """exp(log_poles t) for t = 0 .. L-1, [L, D, N]."""
  return jnp.exp(jnp.arange(length)[:, None, None] * log_poles)


IMPLEMENTATIONS = {"fft": Form(fft)} | {
  name: Form(functools.partial(by_states, name))
  for name in ("chunked", "associative", "recurrent")
}
