"""What Mega and its heirs do after the moving average (arXiv:2209.10655, sec. 3.2-3.3).

With u the (normalised) inputs and m = move(u), of the tokens so far, in place of them:

    z = silu(m W_z + b_z),  q = kappa_q * z + mu_q,  k = kappa_k * z + mu_k
    v = silu(u W_v + b_v)
    o = attention(q, k, v) with a bias for each distance                  (eq. 7 to 11)
    r = silu(m W_r + b_r),  phi = sigmoid(m W_phi + b_phi)    reset and update gate
    h = silu(m W_h + b_h + (r * o) U_h + b_o)
    y = phi * h + (1 - phi) * x                                          (eq. 12 to 14)

These are functions of a mixer with the attributes that `Mega` has.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops, positions
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.softmax import relative_attention
from jaxseq.typing import State

__all__ = [
  "GatedAttentionState",
  "check",
  "initial_cache",
  "mix",
  "num_slots",
  "value_size",
]

INIT = nn.initializers.normal(0.02)
EPSILON = 1e-5  # Of the norms.
NORMS = (None, "layer", "scale")
BIASES = ("simple", "rotary")


class GatedAttentionState(NamedTuple):
  """What the block carries.

  Attributes:
    move: The state of what stands before the attention.
    cache: Keys and values.
  """

  move: State
  cache: ops.kv_cache.KVCache


def check(mixer: Mixer):
  """Raises ValueError where the attributes do not fit."""
  name = type(mixer).__name__
  for count in ("key_size", "value_size", "max_length", "chunk_size"):
    size = getattr(mixer, count)
    if size is not None and size < 1:
      raise ValueError(f"{name} needs {count} >= 1; got {size}")
  for option, choices in (
    ("activation", tuple(relative_attention.ACTIVATIONS)),
    ("position_bias", BIASES),
    ("norm", NORMS),
  ):
    value = getattr(mixer, option)
    if value not in choices:
      raise ValueError(f"{name} needs {option} in {choices}; got {value!r}")
  if mixer.position_bias == "rotary" and mixer.key_size % 2:
    raise ValueError(f"{name} needs an even key_size to rotate; got {mixer.key_size}")


def num_slots(mixer: Mixer) -> int:
  """Tokens that a token may see: those of a chunk, or `max_length`."""
  return mixer.chunk_size or mixer.max_length


def value_size(mixer: Mixer) -> int:
  """Width of the values."""
  return mixer.value_size or 2 * mixer.features


def initial_cache(mixer: Mixer, batch_size: int) -> ops.kv_cache.KVCache:
  """No keys and values."""
  sizes = mixer.key_size, value_size(mixer)
  return ops.kv_cache.empty(batch_size, num_slots(mixer), 1, *sizes, mixer.dtype)


def mix(
  mixer: Mixer,
  move: Callable[..., tuple[Float[Array, "B T D"], State]],
  x: Float[Array, "B T D"],
  state: GatedAttentionState | None,
  segment_ids,
  causal: bool = True,
) -> tuple[Float[Array, "B T D"], GatedAttentionState]:
  """The block; called within the mixer's `__call__`.

  Args:
    mixer: Whose parameters they become.
    move: `move(u, state, segment_ids)`, zero or not at padding, and its state.
    x: Inputs.
    state: Or None.
    segment_ids: Packed documents, or None.
    causal: Whether a token sees no later one.
  """
  B, T, D = x.shape
  if mixer.chunk_size is None and T > mixer.max_length:
    raise ValueError(
      f"{type(mixer).__name__} needs max_length of at least the {T} tokens of a call, "
      f"or a chunk_size; got {mixer.max_length}"
    )
  kind = x.dtype
  x = ops.segments.clear_padding(x, segment_ids)
  u = _norm(mixer, x) if mixer.norm_first else x
  before = GatedAttentionState(None, None) if state is None else state
  project = lambda x, width, name, axes: layers.projection(
    width,
    axes,
    use_bias=True,
    kernel_init=INIT,
    dtype=mixer.dtype,
    param_dtype=mixer.param_dtype,
    name=name,
  )(x)

  width = value_size(mixer)
  v = nn.silu(project(u, width, "v", ("embed", "heads")))
  m, moved = move(u, before.move, segment_ids)
  m = m.astype(mixer.dtype)
  z = nn.silu(project(m, mixer.key_size, "z", ("embed", None)))
  pair = (2, mixer.key_size)
  kappa = _param(mixer, "kappa", INIT, pair, (None, None))
  mu = _param(mixer, "mu", nn.initializers.zeros, pair, (None, None))
  q, k = ((z * kappa[i] + mu[i]).astype(z.dtype)[:, :, None] for i in (0, 1))
  v = v[:, :, None]
  o, cache = ops.relative_attention(
    q,
    k,
    v,
    _distance_bias(mixer, causal),
    activation=mixer.activation,
    causal=causal,
    chunk_size=mixer.chunk_size,
    initial_state=before.cache,
    segment_ids=segment_ids,
  )
  if state is None and causal:  # Dropped by the compiler where it is not used.
    cache = ops.kv_cache.append(initial_cache(mixer, B), k, v, segment_ids)

  reset = nn.silu(project(m, width, "reset", ("embed", "heads")))
  update = project(m, D, "update", ("embed", "embed_out")).astype(jnp.float32)
  update = nn.sigmoid(update)
  h = project(m, D, "h", ("embed", "embed_out"))
  h = nn.silu(h + project(o[:, :, 0] * reset, D, "out", ("heads", "embed")))
  x = x.astype(jnp.float32)
  y = x + update * (h.astype(jnp.float32) - x)
  y = y if mixer.norm_first else _norm(mixer, y)
  y = ops.segments.clear_padding(y.astype(kind), segment_ids)
  return y, GatedAttentionState(moved, cache)


def _norm(mixer, x):
  if mixer.norm is None:
    return x
  if mixer.norm == "scale":
    norm = layers.RMSNorm(EPSILON, use_scale=False, name="norm")
    scale = _param(mixer, "norm_scale", nn.initializers.ones, (1,), (None,))
    return (norm(x.astype(jnp.float32)) * scale).astype(x.dtype)
  norm = nn.LayerNorm(
    EPSILON,
    dtype=jnp.float32,
    param_dtype=mixer.param_dtype,
    scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
    name="norm",
  )
  return norm(x).astype(x.dtype)


def _distance_bias(mixer, causal) -> Float[Array, "1 L"]:
  """A number for each distance, or a product of two vectors turned by it."""
  most = num_slots(mixer) - 1
  least = 0 if causal else -most
  if mixer.position_bias == "simple":
    return _param(mixer, "bias", INIT, (most - least + 1,), (None,))[None]
  a, b = (_param(mixer, f"bias_{n}", INIT, (mixer.key_size,), (None,)) for n in "qk")
  distance = jnp.arange(least, most + 1)[None]
  turned = jnp.broadcast_to(a, (1, distance.size, 1, len(a)))
  turned = positions.rotary(turned.astype(jnp.float32), distance)
  return ops.product("btgk,k->gt", turned, b, like=turned)


def _param(mixer, name, init, shape, axes):
  init = nn.with_logical_partitioning(init, axes)
  return mixer.param(name, init, shape, mixer.param_dtype)
