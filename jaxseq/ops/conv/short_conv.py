"""The short causal depthwise convolution that stands before many recurrences.

    y_t = act(b + sum_w weight_w x_{t-W+1+w})        w = 0 .. W-1

`weight[W - 1]` multiplies the current token. The state is the last W - 1 inputs. Taps
may be `dilation` tokens apart (WaveNet, van den Oord et al. 2016, arXiv:1609.03499):
then there are that many states, one within the other.
"""

import functools

import jax
import jax.numpy as jnp
from jaxseq_kernels import short_conv as kernel
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, dispatch, segments, sharded
from jaxseq.ops.dispatch import Form

__all__ = ["ACTIVATIONS", "IMPLEMENTATIONS", "short_conv"]

ACTIVATIONS = {None: lambda x: x, "silu": jax.nn.silu}


def short_conv(
  x: Float[Array, "B T D"],
  weight: Float[Array, "W D"],
  bias: Float[Array, "D"] | None = None,
  *,
  activation: str | None = None,
  dilation: int = 1,
  initial_state: Float[Array, "B S D"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T D"], Float[Array, "B S D"]]:
  """Mixes each channel over its last W tokens, or W tokens that stand further apart.

  Args:
    x: Inputs.
    weight: Taps, the current token's last.
    bias: Added before the activation.
    activation: A key of `ACTIVATIONS`.
    dilation: Tokens from one tap to the next.
    initial_state: The S = (W - 1) x dilation inputs before the first token. Zeros if
      None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `x`, summed in float32, and the last S inputs of the last
    document in float32, zeros where it is shorter.

  Raises:
    ValueError: If shapes do not fit, or the activation or implementation is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  sizes = checks.check_shapes(
    "short_conv",
    x=(x, "B T D"),
    weight=(weight, "W D"),
    bias=(bias, "D"),
    segment_ids=(segment_ids, "B T"),
  )
  if activation not in ACTIVATIONS:
    raise ValueError(
      f"short_conv needs activation in {tuple(ACTIVATIONS)}; got {activation!r}"
    )
  if dilation < 1:
    raise ValueError(f"short_conv needs dilation >= 1; got {dilation}")
  shape = (sizes["B"], (sizes["W"] - 1) * dilation, sizes["D"])
  if initial_state is not None and initial_state.shape != shape:
    axes = "[B, W - 1, D]" if dilation == 1 else f"[B, (W - 1) x {dilation}, D]"
    raise ValueError(
      f"short_conv needs initial_state {axes} = {shape}; "
      f"got shape {initial_state.shape}"
    )
  args = (x, weight, bias, activation, initial_state, segment_ids, dilation)
  run = dispatch.select(
    "short_conv", IMPLEMENTATIONS, implementation, sizes["T"], *args
  )
  return run(*args)


def recurrent(x, weight, bias, activation, state, segment_ids, dilation=1):
  """The definition: a window of inputs that moves on at each real token."""
  state = _float32_state(x, weight, state, dilation)
  kind = state.dtype
  if segment_ids is None:
    segment_ids = jnp.ones(x.shape[:2], jnp.int32)
  parsed = segments.parse(segment_ids)

  def step(state, token):
    x, valid, start = token
    valid, start = valid[:, None], start[:, None]
    before = jnp.where(start[..., None], 0, state)
    window = jnp.concatenate([before, x[:, None].astype(kind)], axis=1)
    y = jnp.sum(window[:, ::dilation] * weight.astype(kind), axis=1)
    y = ACTIVATIONS[activation](y if bias is None else y + bias.astype(kind))
    return jnp.where(valid[..., None], window[:, 1:], state), jnp.where(valid, y, 0)

  x = jnp.where(parsed.valid[..., None], x, 0)
  tokens = jax.tree.map(lambda a: a.swapaxes(0, 1), (x, parsed.valid, parsed.starts))
  state, y = jax.lax.scan(step, state, tokens)
  return y.swapaxes(0, 1).astype(x.dtype), state


def parallel(x, weight, bias, activation, state, segment_ids, dilation=1):
  """The sum of W shifted products over the inputs with the state before them."""
  state = _float32_state(x, weight, state, dilation)
  kind, taps, T = state.dtype, weight.shape[0], x.shape[1]
  if segment_ids is None:
    extended = jnp.concatenate([state, x.astype(kind)], axis=1)  # [B, S + T, D]
    last = extended[:, T:]
    window = lambda w: extended[:, w : w + T]
  else:
    extended, numbers, last = place_state(x.astype(kind), state, segment_ids)
    same = lambda w: numbers[:, w : w + T] == numbers[:, numbers.shape[1] - T :]
    window = lambda w: jnp.where(same(w)[..., None], extended[:, w : w + T], 0)
  y = sum(weight[w].astype(kind) * window(w * dilation) for w in range(taps))
  y = ACTIVATIONS[activation](y if bias is None else y + bias.astype(kind))
  if segment_ids is not None:
    y = jnp.where(segment_ids[..., None] != 0, y, 0)
  return y.astype(x.dtype), last


def place_state(x, state, segment_ids):
  """Puts the state right before each row's first real token.

  Returns:
    The inputs with the state among them [B, S + T, D], zero at padding; the number of
    the document that each belongs to [B, S + T], -1 at padding; and the state after the
    row's last real token.
  """
  history = state.shape[1]
  parsed = segments.parse(segment_ids)
  any_real = parsed.valid.any(axis=1)
  first = jnp.where(any_real, parsed.valid.argmax(axis=1), 0)
  after = jnp.where(any_real, x.shape[1] - parsed.valid[:, ::-1].argmax(axis=1), 0)
  pad = ((0, 0), (history, 0))
  extended = jnp.pad(jnp.where(parsed.valid[..., None], x, 0), (*pad, (0, 0)))
  numbers = jnp.pad(jnp.where(parsed.valid, parsed.index, -1), pad, constant_values=-1)
  insert = jax.vmap(lambda a, b, t: jax.lax.dynamic_update_slice_in_dim(a, b, t, 0))
  extended = insert(extended, state, first)
  numbers = insert(numbers, jnp.zeros_like(numbers[:, :history]), first)
  cut = jax.vmap(lambda a, t: jax.lax.dynamic_slice_in_dim(a, t, history))
  of_last = cut(numbers, after) == parsed.index[:, -1:]
  return extended, numbers, jnp.where(of_last[..., None], cut(extended, after), 0)


def _float32_state(x, weight, state, dilation=1):
  """The state in at least float32, zeros if there is none."""
  kind = jnp.promote_types(x.dtype, jnp.float32)
  if state is None:
    size = (weight.shape[0] - 1) * dilation
    return jnp.zeros((x.shape[0], size, x.shape[2]), kind)
  return state.astype(kind)


def _pallas(backend):
  """The kernel, which begins with an empty state."""

  def run(x, weight, bias, activation, state, segment_ids, dilation):
    del dilation  # It is 1.
    taps, reach = weight.shape[0], None
    if segment_ids is not None:
      place = segments.positions(segment_ids, jnp.zeros(len(x), jnp.int32))
      reach = jnp.where(segment_ids != 0, jnp.minimum(place, taps - 1), -1)
    convolve = functools.partial(kernel.fused, activation=activation, backend=backend)
    y = sharded.over_batch_and_heads(
      convolve,
      (x, weight, jnp.zeros(x.shape[2]) if bias is None else bias, reach),
      ("BTD", "WD", "D", "BT"),
      "BTD",
    )
    if state is not None:  # The first tokens see it.
      head = x[:, : taps - 1]
      y = y.at[:, : taps - 1].set(
        parallel(head, weight, bias, activation, state, None)[0]
      )
    state = _float32_state(x, weight, state)
    if segment_ids is None:
      last = jnp.concatenate([state, x[:, -(taps - 1) :].astype(state.dtype)], axis=1)
      return y, last[:, last.shape[1] - (taps - 1) :]
    return y, place_state(x.astype(state.dtype), state, segment_ids)[2]

  def refusal(x, weight, bias, activation, state, segment_ids, dilation):
    elsewhere = dispatch.no_kernels(backend)
    if elsewhere is not None:
      return elsewhere
    if dilation != 1:
      return f"it needs a dilation of 1, not {dilation}"
    if weight.shape[0] < 2:
      return "it needs at least 2 taps, not 1"
    if state is not None and segment_ids is not None:
      return "it takes a state or packed documents, not both"
    return kernel.refusal(x, weight, bias, None, backend=backend)

  return run, refusal


IMPLEMENTATIONS = {
  "pallas_tpu": Form(*_pallas("tpu")),
  "pallas_gpu": Form(*_pallas("gpu")),
  "parallel": Form(parallel),
  "recurrent": Form(recurrent),
}
