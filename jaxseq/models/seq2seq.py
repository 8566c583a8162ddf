"""An encoder-decoder over any mixers, joined by linear attention.

    S_l = sum_j phi(k_j) v_j^T,    z_l = sum_j phi(k_j)       of the encoded source
    x <- x + mixer(norm(x)),   x <- x + cross_l(norm(x)),   x <- x + mlp(norm(x))
    cross_l(x) = S_l^T phi(q) / z_l^T phi(q) W_o              phi(x) = elu(x) + 1

Linear attention as in Katharopoulos et al. (2020, arXiv:2006.16236), from decoder to
encoder as in random feature attention (Peng et al. 2021, arXiv:2103.02143, sec. 3.2).
The source is read once. Each layer of the decoder keeps sums of fixed size, so that a
token costs the same however long the source and what is written already are.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxseq import layers, ops, registry
from jaxseq.layers import feature_maps
from jaxseq.models.backbone import REMAT, Backbone, BackboneConfig
from jaxseq.typing import State

__all__ = ["CrossLinearAttention", "EncoderDecoder", "EncoderDecoderState"]

LEAST_DENOMINATOR = 1e-6


class EncoderDecoderState(NamedTuple):
  """What the decoder carries.

  Attributes:
    mixers: The states of its mixers.
    memory: The sums over the source, of each repeat of the pattern and layer of it.
    length: Tokens written.
  """

  mixers: State
  memory: ops.LinearAttentionState
  length: Int[Array, "B"]


class CrossLinearAttention(nn.Module):
  """Reads the sums over a source.

  Attributes:
    features: Width D of input and output.
    dtype: Of the matrix products.
    param_dtype: Of the parameters.
  """

  features: int
  dtype: DTypeLike = jnp.bfloat16
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T D"], memory: ops.LinearAttentionState
  ) -> Float[Array, "B T D"]:
    types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    (B, T, D), H = x.shape, memory.S.shape[1]
    q = layers.projection(D, ("embed", "heads"), use_bias=True, name="q", **types)(x)
    q = feature_maps.elu_plus_one(q.reshape(B, T, H, -1))
    sums = ops.product("bthk,bhkv->bthv", q, memory.S, like=q)
    total = ops.product("bthk,bhk->bth", q, memory.z, like=q)
    o = sums / jnp.maximum(total, LEAST_DENOMINATOR)[..., None]
    out = layers.projection(D, ("heads", "embed"), use_bias=True, name="out", **types)
    return out(o.reshape(B, T, D).astype(self.dtype))


class _Period(nn.Module):
  """One repeat of the decoder's pattern. The carry is x, as `nn.scan` wants it."""

  config: BackboneConfig

  @nn.compact
  def __call__(self, x, states, memory):
    config = self.config
    types = dict(dtype=config.dtype, param_dtype=config.param_dtype)

    def norm(x, name):
      y = layers.RMSNorm(param_dtype=config.param_dtype, name=name)(x)
      return y.astype(config.dtype)

    new_states = []
    for i, name in enumerate(config.pattern):
      mixer = config.mixer(name, i, name=f"mixer_{i}")
      y, state = mixer(norm(x, f"mixer_norm_{i}"), states[i])
      new_states.append(state)
      x = x + y.astype(x.dtype)
      cross = CrossLinearAttention(config.features, name=f"cross_{i}", **types)
      sums = ops.LinearAttentionState(memory.S[i], memory.z[i])
      x = x + cross(norm(x, f"cross_norm_{i}"), sums).astype(x.dtype)
      mlp = config.mlp_after(i, name=f"mlp_{i}")
      if mlp is not None:
        x = x + mlp(norm(x, f"mlp_norm_{i}")).astype(x.dtype)
      x = nn.with_logical_constraint(x, ("batch", "time", None))
    return x, tuple(new_states)


class EncoderDecoder(nn.Module):
  """Writes a target, token by token, given a source.

      state = model.apply(params, source, method="encode")
      logits, state = model.apply(params, tokens, state, method="decode")

  Attributes:
    encoder: The stack over the source, such as of "bidirectional_linear_transformer".
    decoder: The stack over the target. Its mixers are causal.
    vocab_size: Number W of token ids, of both.
    num_heads: Heads H of the cross-attention.

  Raises:
    ValueError: If the two stacks do not fit, or a mixer of the decoder is not causal.
  """

  encoder: BackboneConfig
  decoder: BackboneConfig
  vocab_size: int
  num_heads: int = 4

  STATE_AXES = EncoderDecoderState(1, 2, 0)  # For `beam_search`.

  def __post_init__(self):
    super().__post_init__()
    D = self.decoder.features
    if self.encoder.features != D or D % (2 * self.num_heads):
      raise ValueError(
        "EncoderDecoder needs stacks of the same even features, which num_heads divide;"
        f" got {self.encoder.features}, {D} and {self.num_heads}"
      )
    for name in self.decoder.pattern:
      if not registry.entry(name).causal:
        raise ValueError(
          f"a decoder needs causal mixers; {name} sees the tokens that come"
        )

  def setup(self):
    config = self.decoder
    D = config.features
    init = nn.with_logical_partitioning(
      nn.initializers.normal(D**-0.5), ("vocab", "embed")
    )
    self.embedding = self.param(
      "embedding", init, (self.vocab_size, D), config.param_dtype
    )
    self.encoder_stack = Backbone(self.encoder)
    self.memory = layers.projection(  # Keys and values of all layers of the decoder.
      2 * config.num_layers * D,
      ("embed", "heads"),
      use_bias=True,
      dtype=config.dtype,
      param_dtype=config.param_dtype,
    )
    period = _Period
    if config.remat != "none":
      period = nn.remat(period, prevent_cse=False, policy=REMAT[config.remat])
    self.decoder_stack = nn.scan(
      period,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=config.repeats,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(config)
    self.final_norm = layers.RMSNorm(param_dtype=config.param_dtype)

  def _embed(self, tokens, place):
    D = self.decoder.features
    x = self.embedding[tokens] * D**0.5 + _sinusoids(place, D)
    return nn.with_logical_constraint(
      x.astype(self.decoder.dtype), ("batch", "time", None)
    )

  def encode(
    self, source: Int[Array, "B S"], source_mask: Bool[Array, "B S"] | None = None
  ) -> EncoderDecoderState:
    """Reads a source: the state before the first token of the target.

    Args:
      source: Token ids.
      source_mask: False at padding, whose ids do not matter. None has none.
    """
    (B, T), config = source.shape, self.decoder
    ids = None if source_mask is None else source_mask.astype(jnp.int32)
    place = ops.segments.positions(ids, jnp.zeros(B, jnp.int32), (B, T))
    x, _ = self.encoder_stack(self._embed(source, place), segment_ids=ids)
    shape = (B, T, 2, config.repeats, len(config.pattern), self.num_heads, -1)
    k, v = jnp.moveaxis(self.memory(x.astype(config.dtype)).reshape(shape), 2, 0)
    k = ops.segments.clear_padding(feature_maps.elu_plus_one(k), ids)
    S = ops.product("btlphk,btlphv->lpbhkv", k, v, like=v)
    z = jnp.moveaxis(jnp.sum(k.astype(S.dtype), axis=1), 0, 2)
    mixers = (
      config.mixer(name, i, parent=None) for i, name in enumerate(config.pattern)
    )
    repeat = lambda s: jnp.broadcast_to(s, (config.repeats, *s.shape))
    return EncoderDecoderState(
      jax.tree.map(repeat, tuple(m.initial_state(B) for m in mixers)),
      ops.LinearAttentionState(S, z),
      jnp.zeros(B, jnp.int32),
    )

  def _hidden(self, tokens, state):
    place = ops.segments.positions(None, state.length, tokens.shape)
    x = self._embed(tokens, place)
    x, mixers = self.decoder_stack(x, state.mixers, state.memory)
    x = self.final_norm(x).astype(self.decoder.dtype)
    length = state.length + tokens.shape[1]
    return x, EncoderDecoderState(mixers, state.memory, length)

  def decode(
    self, tokens: Int[Array, "B T"], state: EncoderDecoderState
  ) -> tuple[Float[Array, "B T W"], EncoderDecoderState]:
    """Logits of each next token in float32, and the state after the last token."""
    x, state = self._hidden(tokens, state)
    return ops.product("btd,dw->btw", x, self.embedding.T, like=x), state

  def __call__(
    self,
    source: Int[Array, "B S"],
    tokens: Int[Array, "B T"],
    source_mask: Bool[Array, "B S"] | None = None,
  ) -> tuple[Float[Array, "B T W"], EncoderDecoderState]:
    """`encode` and `decode`."""
    return self.decode(tokens, self.encode(source, source_mask))

  def loss(self, batch: dict) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The summed loss of a batch in nats, with what it is summed over.

    Args:
      batch: source and source_mask [B, S]; inputs, targets and weights [B, T], padded
        after their last token, with weights of zero.
    """
    state = self.encode(batch["source"], batch["source_mask"])
    x, _ = self._hidden(batch["inputs"], state)
    loss, right = layers.cross_entropy(
      x, self.embedding.T, batch["targets"], batch["weights"]
    )
    return loss, {"weight": jnp.sum(batch["weights"]), "accuracy": right}


def _sinusoids(place: Int[Array, "B T"], features: int) -> Float[Array, "B T D"]:
  """Positions as in Vaswani et al. (2017, arXiv:1706.03762, sec. 3.5)."""
  frequency = 10_000.0 ** -jnp.linspace(0, 1, features // 2, endpoint=False)
  angle = place[..., None] * frequency
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
