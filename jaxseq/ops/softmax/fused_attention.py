"""The fused attention kernels that come with JAX: cuDNN's for a GPU, splash for a TPU.

They are forms of `softmax_attention` and take its `Inputs`. Each has a refusal for the
calls that its own checks would turn down, or that it would round.
"""

import functools

import jax
import jax.numpy as jnp

from jaxseq.ops import dispatch, sharded

__all__ = ["cudnn", "cudnn_refusal", "splash", "splash_refusal"]

# cuDNN knows no documents, but takes a mask for all heads, which is T x T: 32 MB a row.
CUDNN_PACKED_TOKENS = 4096

# Tokens. The scores of the largest block take 1 MB of the 16 MB of VMEM, and a few
# times that in the backward pass.
SPLASH_BLOCK_SIZES = (512, 256, 128)


def cudnn(inputs):
  """cuDNN's kernel, on a GPU."""
  run = functools.partial(
    jax.nn.dot_product_attention,
    is_causal=inputs.causal,
    local_window_size=None if inputs.window is None else (inputs.window - 1, 0),
    scale=1.0,
    implementation="cudnn",
  )
  axes = ("BTHK", "BSHK", "BSHK")
  if not inputs.packed:
    args = (inputs.q, inputs.k, inputs.v)
    return sharded.over_batch_and_heads(run, args, axes, "BTHK")

  def packed(q, k, v, q_document, k_document):
    same = q_document[:, :, None] == k_document[:, None]
    return run(q, k, v, mask=same[:, None])

  args = (inputs.q, inputs.k, inputs.v, inputs.q_document, inputs.k_document)
  return sharded.over_batch_and_heads(packed, args, (*axes, "BT", "BS"), "BTHK")


def cudnn_refusal(inputs) -> str | None:
  q, k, v = inputs.q, inputs.k, inputs.v
  if dispatch.platform() != "gpu":
    return f"it needs a GPU, not {dispatch.platform()}"
  if inputs.packed and inputs.window is not None:
    return "it takes no packed documents with a window"
  if inputs.packed and q.shape[1] > CUDNN_PACKED_TOKENS:
    return f"it packs documents by a mask, of {CUDNN_PACKED_TOKENS} tokens at most"
  if inputs.cached:
    return "it takes no state"
  if q.dtype not in (jnp.bfloat16, jnp.float16) or not q.dtype == k.dtype == v.dtype:
    return f"it needs bfloat16 or float16, not {q.dtype}, {k.dtype}, {v.dtype}"
  if q.shape[1] % 2 or k.shape[1] % 2:
    return f"it needs even T and S, not {(q.shape[1], k.shape[1])}"
  K, V = q.shape[-1], v.shape[-1]
  if K != V or K % 8 or K > 128:  # More only on some GPUs, and there not for all calls.
    return f"it needs K = V, a multiple of 8, at most 128, not {(K, V)}"
  return None


def splash(inputs):
  """JAX's splash attention, a Pallas kernel, on a TPU."""
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
  )

  T, H = inputs.q.shape[1:3]
  if inputs.window is not None:
    mask = splash_attention_mask.LocalMask((T, T), (inputs.window - 1, 0), 0)
  elif inputs.causal:
    mask = splash_attention_mask.CausalMask((T, T))
  else:
    mask = splash_attention_mask.FullMask((T, T))
  size = next(size for size in SPLASH_BLOCK_SIZES if T % size == 0)
  names = ("q", "kv", "q_dkv", "kv_dkv", "q_dq", "kv_dq")
  block_sizes = {f"block_{name}": size for name in names}

  def run(q, k, v, document):
    kernel = splash_attention_kernel.make_splash_mha(
      splash_attention_mask.MultiHeadMask([mask] * q.shape[2]),
      block_sizes=splash_attention_kernel.BlockSizes(**block_sizes),
      head_shards=1,
      q_seq_shards=1,
    )
    together = None
    if document is not None:
      together = splash_attention_kernel.SegmentIds(document, document)
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return jax.vmap(kernel)(q, k, v, together).swapaxes(1, 2)

  repeat = lambda x: jnp.repeat(x, H // x.shape[2], axis=2)
  document = inputs.q_document if inputs.packed else None
  args = (inputs.q, repeat(inputs.k), repeat(inputs.v), document)
  return sharded.over_batch_and_heads(run, args, ("BTHK", "BTHK", "BTHK", "BT"), "BTHK")


def splash_refusal(inputs) -> str | None:
  q, k, v = inputs.q, inputs.k, inputs.v
  if dispatch.platform() != "tpu":
    return f"it needs a TPU, not {dispatch.platform()}"
  if inputs.cached:
    return "it takes no state"
  if not q.dtype == k.dtype == v.dtype == jnp.bfloat16:  # It would round to it inside.
    return f"it needs bfloat16, not {q.dtype}, {k.dtype}, {v.dtype}"
  T, S = q.shape[1], k.shape[1]
  if T != S or T % SPLASH_BLOCK_SIZES[-1]:
    return f"it needs T = S in multiples of {SPLASH_BLOCK_SIZES[-1]}, not {(T, S)}"
  K, V = q.shape[-1], v.shape[-1]
  if K != V or K % 64:
    return f"it needs K = V in multiples of 64, not {(K, V)}"
  return None
