"""The diagonal linear recurrence of S5, LRU, RG-LRU, HGRN, QRNN and minGRU.

    h_t = a_t h_{t-1} + x_t                  elementwise; state [N]

`a` is the factor itself, not its logarithm: real of either sign, zero, or complex. The
maps h -> a h + x compose to maps of the same kind, so that a tree can sum them
(Blelloch 1990, CMU-CS-90-190, sec. 1.4; Martin & Cundy 2018, arXiv:1709.04057). With
one `a` for all tokens the states are a convolution of the inputs,

    h_t = sum_l a^l x_{t-l} + a^{t+1} h_0    (LSSL, Gu et al. 2021, arXiv:2110.13985)

A state may be a tensor of any shape *N, as the feature maps of ConvS5 are (Smith et al.
2023, arXiv:2310.19694).
"""

import functools

import jax
import jax.numpy as jnp
from jaxseq_kernels import diagonal_recurrence as kernel
from jaxtyping import Array, Inexact, Int

from jaxseq.ops import blocks, dispatch, fourier, segments, sharded
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "diagonal_recurrence"]

CHUNK_SIZE = 256  # Tokens whose tree of sums is held at one time.


def diagonal_recurrence(
  a: Inexact[Array, "B T *#N"] | Inexact[Array, "*#N"],
  x: Inexact[Array, "B T *N"],
  *,
  initial_state: Inexact[Array, "B *N"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  reverse: bool = False,
  implementation: str = "auto",
) -> tuple[Inexact[Array, "B T *N"], Inexact[Array, "B *N"]]:
  """Adds up the inputs, multiplying the sum by `a` at each token.

  Args:
    a: What is kept of the state at each token, or [*N], the same at all. An axis of the
      state along which it is the same may have size 1. Not checked; a modulus over 1
      grows.
    x: Inputs, already scaled. Nothing here has a `scale`: there is no product of
      queries and keys.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    reverse: From the last token to the first: h_t = a_t h_{t+1} + x_t. Then the initial
      state stands after the last token, it belongs to the row's last document, and the
      state returned is that of the first document at its first token.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Every state, in the dtype of `x` (complex if `a` or the initial state is), and the
    last one in at least float32 or complex64.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  _check_shapes(a, x, initial_state, segment_ids)
  B, T, *N = x.shape
  state = jnp.zeros((B, *N), x.dtype) if initial_state is None else initial_state
  kind = jnp.promote_types(jnp.result_type(a, x, state), jnp.float32)
  a, y, state = a.astype(kind), x.astype(kind), state.astype(kind)
  if a.ndim != x.ndim:
    a = a[None, None]  # One row and token; the forms broadcast it over all.
  flip = (lambda x: x[:, ::-1]) if reverse else (lambda x: x)
  a, y = flip(a), flip(y)
  if segment_ids is not None:
    parsed = segments.parse(flip(segment_ids))
    by_token = lambda x: x.reshape(B, T, *[1] * len(N))
    real, start = by_token(parsed.valid), by_token(parsed.starts)
    a = jnp.where(real, jnp.where(start, 0, a), 1)
    y = jnp.where(real, y, 0)
  run = dispatch.select(
    "diagonal_recurrence", IMPLEMENTATIONS, implementation, T, a, y, state
  )
  h, last = run(a, y, state)
  if segment_ids is not None:
    h = jnp.where(real, h, 0)
  return flip(h).astype(kind if jnp.iscomplexobj(h) else x.dtype), last


def _check_shapes(a, x, initial_state, segment_ids):
  """The state's axes have no letters, so that `checks` cannot name them."""
  B, T, *N = x.shape if x.ndim > 2 else (None, None)
  fits = lambda shape: (
    len(shape) == len(N) and all(n in (1, m) for n, m in zip(shape, N))
  )
  for name, array, axes, right in (
    ("x", x, "[B, T, *N]", bool(N)),
    (
      "a",
      a,
      "[*N] or [B, T, *N], where an axis of N may be 1,",
      fits(a.shape) or a.shape[:2] == (B, T) and fits(a.shape[2:]),
    ),
    (
      "initial_state",
      initial_state,
      "[B, *N]",
      initial_state is None or initial_state.shape == (B, *N),
    ),
    (
      "segment_ids",
      segment_ids,
      "[B, T]",
      segment_ids is None or segment_ids.shape == (B, T),
    ),
  ):
    if not right:
      raise ValueError(
        f"diagonal_recurrence needs {name} {axes} for x {x.shape}; "
        f"got shape {array.shape}"
      )


def recurrent(a, x, state):
  """The definition."""

  def step(h, token):
    a, x = token
    h = a * h + x
    return h, h

  a = _at_each_token(a, x)
  last, h = jax.lax.scan(step, state, (a.swapaxes(0, 1), x.swapaxes(0, 1)))
  return h.swapaxes(0, 1), last


def associative(a, x, state):
  """The maps of all tokens, composed by a tree."""

  def compose(first, then):
    (a, x), (b, y) = first, then
    return a * b, b * x + y

  kept, h = jax.lax.associative_scan(compose, (_at_each_token(a, x), x), axis=1)
  h = h + kept * state[:, None]
  return h, h[:, -1]


def chunked(a, x, state):
  """`associative` within blocks of `CHUNK_SIZE`, `recurrent` from block to block.

  The backward pass makes the tree of each block again.
  """
  T = x.shape[1]
  size = min(CHUNK_SIZE, T)
  # The last block is padded with a = 1 and x = 0, which keep the state.
  a = blocks.split(_at_each_token(a, x), size, fill=1)

  @jax.checkpoint
  def step(state, block):
    h, state = associative(*block, state)
    return state, h

  last, h = jax.lax.scan(step, state, (a, blocks.split(x, size)))
  return blocks.join(h, T), last


def by_convolution(a, x, state):
  """The sum over all tokens before, by FFT. Its errors are a share of the largest h."""
  powers = _powers(a[0, 0], x.shape[1])  # [T, *N]
  h = fourier.causal(x, powers) + a * powers * state[:, None]
  return h, h[:, -1]


def _powers(a, length):
  """1, a, a^2, ... by doubling: a^0 is 1 for a = 0 too, and gradients exist there."""
  result, factor = jnp.ones_like(a)[None], a
  while len(result) < length:
    result = jnp.concatenate([result, factor * result])
    factor = factor * factor
  return result[:length]


def _changes(a, x, state):
  if a.shape[1] == x.shape[1] > 1:
    return (
      "it needs one factor for all tokens, not one for each, and no packed documents, "
      "which set the factor to 0 where they start"
    )


def _at_each_token(a, x):
  return jnp.broadcast_to(a, (a.shape[0], x.shape[1], *a.shape[2:]))


def _on_cpu(a, x, state):
  """A CPU has no width to gain from a tree, which does twice the work of the loop."""
  return dispatch.platform() == "cpu"


def _pallas(backend):
  """The kernel, over one axis of channels."""

  def arrays(a, x, state):
    B, T, *N = x.shape
    flat = lambda y, *axes: jnp.broadcast_to(y, (*axes, *N)).reshape(*axes, -1)
    a = flat(a[0, 0]) if a.shape[:2] == (1, 1) else flat(a, B, T)
    return a, flat(x, B, T), flat(state, B)

  def run(a, x, state):
    args = arrays(a, x, state)
    axes = ("D" if args[0].ndim == 1 else "BTD", "BTD", "BD")
    fused = functools.partial(kernel.fused, backend=backend)
    h, last = sharded.over_batch_and_heads(fused, args, axes, ("BTD", "BD"))
    return h.reshape(x.shape), last.reshape(state.shape)

  def refusal(a, x, state):
    return dispatch.no_kernels(backend) or kernel.refusal(a, x, state, backend=backend)

  return Form(run, refusal)


IMPLEMENTATIONS = {
  "pallas_tpu": _pallas("tpu"),
  "chunked": Form(chunked, slow=_on_cpu),
  "associative": Form(associative, slow=_on_cpu),
  "recurrent": Form(recurrent),
  # On 2 CPU cores, forward and backward of 8 x 1024 x 64 complex take 40 ms against the
  # recurrent form's 25 ms.
  "convolution": Form(by_convolution, _changes),
}
