"""The gate of H3, Hyena and MultiHyena around a long convolution.

    o_t = sum_l h_l (q_t . k_{t-l}) v_{t-l} + skip (q_t . k_t) v_t          l = 0 .. L-1

For each head one filter h convolves all entries of the outer products k v^T, and q
reads the result (Laughing Hyena, Massaroli et al. 2023, arXiv:2310.18780, sec. 4). With
heads of one channel that is q * (h conv (k * v)). It is linear attention whose scores
change with distance as h does, any h; so its state is the last L - 1 keys and values.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, dispatch, segments
from jaxseq.ops.conv import fft_conv
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "GatedConvState", "gated_conv"]


class GatedConvState(NamedTuple):
  """The last keys and values."""

  k: Float[Array, "B L-1 H K"]
  v: Float[Array, "B L-1 H V"]


def gated_conv(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  kernel: Float[Array, "L H"],
  skip: Float[Array, "H"] | None = None,
  *,
  initial_state: GatedConvState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], GatedConvState]:
  """Mixes the products of keys and values over the last L tokens, read by queries.

  Args:
    q: Queries. There is no scale.
    k: Keys.
    v: Values.
    kernel: The heads' filters, the current token's tap first.
    skip: Share of the current token's product that is added.
    initial_state: The L - 1 keys and values before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto". "recurrent" costs T L (K + V)
      products a head, the others are those of `fft_conv` for K V channels a head.

  Returns:
    Outputs in the dtype of `v`, and the last L - 1 keys and values of the last document
    in float32, zeros where it is shorter.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  name = "gated_conv"
  sizes = checks.check_shapes(
    name,
    q=(q, "B T H K"),
    k=(k, "B T H K"),
    v=(v, "B T H V"),
    kernel=(kernel, "L H"),
    skip=(skip, "H"),
    segment_ids=(segment_ids, "B T"),
  )
  T, L = sizes["T"], sizes["L"]
  kind = jnp.promote_types(jnp.result_type(q, k, v, kernel), jnp.float32)
  if initial_state is None:  # Then no tap reaches back further than T - 1 tokens.
    kernel = kernel[: T + 1]
    empty = lambda x: jnp.zeros((x.shape[0], len(kernel) - 1, *x.shape[2:]))
    state = GatedConvState(empty(k), empty(v))
  else:
    state = initial_state
    _check_state(name, sizes, state)
  inputs = (segments.clear_padding(x, segment_ids) for x in (q, k, v))
  q, k, w, kernel, *state = (x.astype(kind) for x in (*inputs, kernel, *state))
  args = (q, k, w, kernel, GatedConvState(*state), segment_ids)
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, T, *args)
  o, last = run(*args)
  if skip is not None:
    o += skip.astype(kind)[:, None] * jnp.sum(q * k, axis=-1, keepdims=True) * w
  pad = ((0, 0), (L - len(kernel), 0), (0, 0), (0, 0))
  last = GatedConvState(*(jnp.pad(x, pad) for x in last))
  return segments.clear_padding(o, segment_ids).astype(v.dtype), last


def _check_state(name, sizes, state):
  for axis, x in zip("KV", state):
    shape = (sizes["B"], sizes["L"] - 1, sizes["H"], sizes[axis])
    if x.shape != shape:
      raise ValueError(
        f"{name} needs initial_state.{axis.lower()} [B, L - 1, H, {axis}] = {shape}; "
        f"got shape {x.shape}"
      )


def recurrent(q, k, v, kernel, state, segment_ids):
  """The definition: a window of keys and values that moves on at each real token."""
  if segment_ids is None:
    segment_ids = jnp.ones(q.shape[:2], jnp.int32)
  parsed = segments.parse(segment_ids)
  weights = kernel[::-1]

  def step(state, token):
    q, *new, valid, start = token
    valid, start = (flag[:, None, None, None] for flag in (valid, start))
    before = (jnp.where(start, 0, x) for x in state)
    windows = [jnp.concatenate([x, y[:, None]], axis=1) for x, y in zip(before, new)]
    scores = jnp.einsum("bhk,blhk->blh", q, windows[0], precision="highest") * weights
    o = jnp.einsum("blh,blhv->bhv", scores, windows[1], precision="highest")
    moved = (jnp.where(valid, y[:, 1:], x) for x, y in zip(state, windows))
    return GatedConvState(*moved), o

  tokens = (q, k, v, parsed.valid, parsed.starts)
  state, o = jax.lax.scan(step, state, [x.swapaxes(0, 1) for x in tokens])
  return o.swapaxes(0, 1), state


def _of_products(form: Form) -> Form:
  """A form of `fft_conv`, for all entries of the outer products as channels."""

  def channels(k, v):
    z = k[..., :, None] * v[..., None, :]  # [B, T, H, K, V]
    return z.reshape(*z.shape[:2], -1)

  def run(q, k, v, kernel, state, segment_ids):
    taps = jnp.repeat(kernel, k.shape[-1] * v.shape[-1], axis=1)
    z, _ = form.run(channels(k, v), taps, channels(*state), segment_ids)
    z = z.reshape(*k.shape, v.shape[-1])
    o = jnp.einsum("bthk,bthkv->bthv", q, z, precision="highest")
    return o, GatedConvState(
      *(_last(x, before, segment_ids) for x, before in zip((k, v), state))
    )

  def refusal(q, k, v, kernel, state, segment_ids):
    return form.refusal(k, kernel, state.k, segment_ids)

  return Form(run, refusal)


def _last(x, state, segment_ids):
  """The state after the row's last real token."""
  flat = lambda a: a.reshape(*a.shape[:2], -1)
  return fft_conv.extend(flat(x), flat(state), segment_ids)[2].reshape(state.shape)


IMPLEMENTATIONS = {
  name: _of_products(form)
  for name, form in fft_conv.IMPLEMENTATIONS.items()
  if name != "recurrent"
} | {"recurrent": Form(recurrent)}
