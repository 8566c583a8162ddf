"""Deep recurrent encoder-decoders: the decoder begins from the encoder's last state.

    h_j, s_j = layers(E_s x_j, s_{j-1}),     h_t, s_t = layers'(E_t y_t, s_{t-1})
    p(y_{t+1}) = softmax(W h_t)                                         attention "none"
    a_t = softmax_j(h_t^T W_a h_j),   c_t = sum_j a_tj h_j                     "general"
    p(y_{t+1}) = softmax(W tanh(W_c (c_t, h_t)))

Layers stand one on another with nothing between them, and the source may be read from
its end, so that its beginning is near to the target's (Sutskever et al. 2014,
arXiv:1409.3215). The attention is the global one of Luong et al. (2015,
arXiv:1508.04025, eq. 5 to 8); "dot" is without W_a. Nothing of h_t is fed to the next
token, so that all tokens of a target are computed at once.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxseq import layers, ops, registry
from jaxseq.typing import State

__all__ = ["ATTENTIONS", "RecurrentEncoderDecoder", "RecurrentState"]

ATTENTIONS = ("none", "dot", "general")


class RecurrentState(NamedTuple):
  """What the decoder carries.

  Attributes:
    mixers: The layers' states, [L, B, ...] each.
    keys: What scores of the source are made with. None without attention.
    values: The encoded source.
    source_mask: False at its padding.
  """

  mixers: State
  keys: Float[Array, "B S D"] | None
  values: Float[Array, "B S D"] | None
  source_mask: Bool[Array, "B S"] | None


class _Layer(nn.Module):
  """One mixer. The carry is x, as `nn.scan` wants it."""

  kind: str
  attributes: Mapping[str, Any]

  @nn.compact
  def __call__(self, x, state, segment_ids):
    mixer = registry.mixer(self.kind)(name="mixer", **self.attributes)
    return mixer(x, state, segment_ids=segment_ids)


class RecurrentEncoderDecoder(nn.Module):
  """Writes a target, token by token, given a source.

      state = model.apply(params, source, method="encode")
      logits, state = model.apply(params, tokens, state, method="decode")

  Attributes:
    vocab_size: Number W of the target's token ids.
    features: Width D of embeddings and layers.
    num_layers: Depth L of both stacks.
    mixer: Name of the mixer of all layers; it is causal and has a state.
    mixer_options: Its further attributes.
    source_vocab_size: Number of the source's token ids. W if None.
    reverse_source: Whether the source is read from its end.
    attention: One of `ATTENTIONS`.
    dtype: Of the matrix products.
    param_dtype: Of the parameters.

  Raises:
    ValueError: If there is no such attention or mixer, or it can hand no state on.
  """

  vocab_size: int
  features: int = 1000
  num_layers: int = 4
  mixer: str = "lstm"
  mixer_options: Mapping[str, Any] = flax.core.FrozenDict()
  source_vocab_size: int | None = None
  reverse_source: bool = True
  attention: str = "none"
  dtype: DTypeLike = jnp.bfloat16
  param_dtype: DTypeLike = jnp.float32

  STATE_AXES = RecurrentState(1, 0, 0, 0)  # For `beam_search`.

  def __post_init__(self):
    super().__post_init__()
    if self.attention not in ATTENTIONS:
      raise ValueError(f"attention must be one of {ATTENTIONS}; got {self.attention!r}")
    entry = registry.entry(self.mixer)
    if not entry.causal or entry.state == "none":
      raise ValueError(f"a decoder needs a causal mixer with a state, not {self.mixer}")

  def setup(self):
    D, types = self.features, dict(dtype=self.dtype, param_dtype=self.param_dtype)
    uniform = nn.initializers.uniform(0.16)
    centred = lambda *args: uniform(*args) - 0.08  # Sutskever et al., sec. 3.4.
    init = nn.with_logical_partitioning(centred, ("vocab", "embed"))
    matrix = lambda name, rows: self.param(name, init, (rows, D), self.param_dtype)
    self.source_embedding = matrix(
      "source_embedding", self.source_vocab_size or self.vocab_size
    )
    self.target_embedding = matrix("target_embedding", self.vocab_size)
    self.output = matrix("output", self.vocab_size)
    attributes = dict(self.mixer_options, features=D, **types)
    stack = nn.scan(
      _Layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast),
      length=self.num_layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    self.encoder = stack(self.mixer, attributes)
    self.decoder = stack(self.mixer, attributes)
    if self.attention == "general":
      self.score = layers.projection(D, ("heads", "embed"), **types)
    if self.attention != "none":
      self.combine = layers.projection(D, (None, "embed"), **types)

  def _embed(self, matrix, tokens):
    x = matrix[tokens].astype(self.dtype)
    return nn.with_logical_constraint(x, ("batch", "time", None))

  def encode(
    self, source: Int[Array, "B S"], source_mask: Bool[Array, "B S"] | None = None
  ) -> RecurrentState:
    """Reads a source: the state before the first token of the target.

    Args:
      source: Token ids.
      source_mask: False at padding, whose ids do not matter. None has none.
    """
    if source_mask is None:
      source_mask = jnp.ones(source.shape, bool)
    if self.reverse_source:
      source, source_mask = source[:, ::-1], source_mask[:, ::-1]
    ids = source_mask.astype(jnp.int32)
    h, mixers = self.encoder(self._embed(self.source_embedding, source), None, ids)
    if self.attention == "none":
      return RecurrentState(mixers, None, None, None)
    keys = self.score(h) if self.attention == "general" else h
    return RecurrentState(mixers, keys, h, source_mask)

  def _hidden(self, tokens, state):
    x = self._embed(self.target_embedding, tokens)
    h, mixers = self.decoder(x, state.mixers, None)
    if self.attention != "none":
      scores = ops.product("btd,bsd->bts", h, state.keys, like=h)
      scores = jnp.where(state.source_mask[:, None], scores, -1e30)
      shares = jax.nn.softmax(scores, axis=-1)
      context = ops.product("bts,bsd->btd", shares, state.values, like=h)
      both = jnp.concatenate([context.astype(h.dtype), h], axis=-1)
      h = jnp.tanh(self.combine(both))
    return h, state._replace(mixers=mixers)

  def decode(
    self, tokens: Int[Array, "B T"], state: RecurrentState
  ) -> tuple[Float[Array, "B T W"], RecurrentState]:
    """Logits of each next token in float32, and the state after the last token."""
    h, state = self._hidden(tokens, state)
    return ops.product("btd,wd->btw", h, self.output, like=h), state

  def __call__(
    self,
    source: Int[Array, "B S"],
    tokens: Int[Array, "B T"],
    source_mask: Bool[Array, "B S"] | None = None,
  ) -> tuple[Float[Array, "B T W"], RecurrentState]:
    """`encode` and `decode`."""
    return self.decode(tokens, self.encode(source, source_mask))

  def loss(self, batch: dict) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The summed loss of a batch in nats, with what it is summed over.

    Args:
      batch: source and source_mask [B, S]; inputs, targets and weights [B, T], padded
        after their last token, with weights of zero.
    """
    state = self.encode(batch["source"], batch["source_mask"])
    h, _ = self._hidden(batch["inputs"], state)
    loss, right = layers.cross_entropy(
      h, self.output.T, batch["targets"], batch["weights"]
    )
    return loss, {"weight": jnp.sum(batch["weights"]), "accuracy": right}
