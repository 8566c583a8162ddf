"""ReMamba (Yuan et al. 2024, arXiv:2408.15496): Mamba that reads a long prompt twice.

First pass over all tokens; h_i are the last hidden states, h_L the prompt's last:

score_i = cos(Q(h_L), K(h_i))        for the first tokens of the prompt, i < e

Second pass over [V(h_i) for the best i, in order; embeddings of the tokens from e on].
In all its layers the steps of the chosen adapt to their scores,

dt_i = softplus(relu(score_i) (x_i W_1 W_2) + theta + dt_bias)

so that the scores, and not only the values, have gradients. Q, K and V are W silu(W x);
theta is learned and begins at zero. From there on the model is Mamba as it was, with
the state of the second pass. Details are those of the authors' code.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import layers, ops
from jaxseq.models.backbone import REMAT, Backbone, BackboneConfig
from jaxseq.typing import State

__all__ = ["ReMamba"]


class _Period(nn.Module):
  """One repeat of the pattern, with steps that adapt to scores."""

  config: BackboneConfig

  @nn.compact
  def __call__(self, x, states, scores):
    config = self.config
    after = []
    for i, name in enumerate(config.pattern):
      mixer = config.mixer(name, i, name=f"mixer_{i}")
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("heads",))
      theta = self.param(f"theta_{i}", zeros, (mixer.width,), config.param_dtype)
      scale = shift = None
      if scores is not None:
        others = ((0, 0), (0, x.shape[1] - scores.shape[1]))
        scale = jnp.pad(nn.relu(scores), others, constant_values=1)
        shift = jnp.pad(jnp.ones_like(scores), others)[..., None] * theta
      y = layers.RMSNorm(param_dtype=config.param_dtype, name=f"mixer_norm_{i}")(x)
      state = None if states is None else states[i]
      y, state = mixer(y.astype(config.dtype), state, dt_scale=scale, dt_shift=shift)
      x = x + y.astype(x.dtype)
      after.append(state)
      mlp = config.mlp_after(i, name=f"mlp_{i}")
      if mlp is not None:
        y = layers.RMSNorm(param_dtype=config.param_dtype, name=f"mlp_norm_{i}")(x)
        x = x + mlp(y.astype(config.dtype)).astype(x.dtype)
      x = nn.with_logical_constraint(x, ("batch", "time", None))
    return x, tuple(after)


class ReMamba(nn.Module):
  """A language model that compresses the beginning of its prompt.

  Attributes:
    config: The stack; all its mixers are "mamba".
    vocab_size: Number W of token ids. The output matrix is the transposed embedding.
    prompt_length: Tokens of the prompt when an answer follows, as in training. If None,
      all tokens are the prompt.
    share: Part of the prompt, from its beginning, that is compressed.
    ratio: Part of these tokens that is chosen.

  Raises:
    ValueError: If a mixer is another one, or a part is not in (0, 1].
  """

  config: BackboneConfig
  vocab_size: int
  prompt_length: int | None = None
  share: float = 0.3
  ratio: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    if set(self.config.pattern) != {"mamba"}:
      raise ValueError(
        f"ReMamba needs a pattern of mamba alone; got {','.join(self.config.pattern)}"
      )
    if not (0 < self.share <= 1 and 0 < self.ratio <= 1):
      raise ValueError(
        f"ReMamba needs share and ratio in (0, 1]; got {self.share} and {self.ratio}"
      )

  def setup(self):
    config = self.config
    normal = nn.initializers.normal(0.02)
    embed = nn.with_logical_partitioning(normal, ("vocab", "embed"))
    shape = (self.vocab_size, config.features)
    self.embedding = self.param("embedding", embed, shape, config.param_dtype)
    period = _Period
    if config.remat != "none":
      period = nn.remat(period, prevent_cse=False, policy=REMAT[config.remat])
    self.layers = nn.scan(
      period,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast),
      length=config.repeats,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(config)
    self.final_norm = layers.RMSNorm(param_dtype=config.param_dtype)
    types = dict(dtype=config.dtype, param_dtype=config.param_dtype)
    linear = lambda *axes: layers.projection(
      config.features, axes, use_bias=True, **types
    )
    network = lambda: nn.Sequential(
      [linear("embed", "mlp"), nn.silu, linear("mlp", "embed")]
    )
    self.query, self.key, self.value = network(), network(), network()

  def num_compressed(self, num_tokens: int) -> int:
    """Tokens e at the beginning that are replaced by the chosen."""
    return math.ceil(self.share * (self.prompt_length or num_tokens))

  def hidden(self, tokens, state=None):
    """Hidden states under the output matrix, and the state after the last token.

    Raises:
      ValueError: If there is no state and less than the prompt.
    """
    x = self.embedding.astype(self.config.dtype)[tokens]
    if state is not None:
      return self._run(x, state)
    if (self.prompt_length or 0) > tokens.shape[1]:
      raise ValueError(
        f"ReMamba needs the prompt of {self.prompt_length} tokens in its first call; "
        f"got {tokens.shape[1]}"
      )
    end = self.num_compressed(tokens.shape[1])
    number = math.ceil(self.ratio * end)
    chosen, scores = self._compress(self._run(x)[0], end, number)
    x = jnp.concatenate([chosen.astype(x.dtype), x[:, end:]], axis=1)
    x, state = self._run(x, scores=scores)
    return x[:, number:], state

  def _run(self, x, state=None, scores=None):
    x, state = self.layers(x, state, scores)
    return self.final_norm(x).astype(self.config.dtype), state

  def _compress(self, h, end, number):
    """The values of the best tokens before `end`, in their order, and their scores."""
    query = layers.l2_normalize(self.query(h[:, (self.prompt_length or 0) - 1]))
    h = h[:, :end]
    key = layers.l2_normalize(self.key(h))
    scores = ops.product("btd,bd->bt", key, query, like=query)
    places = jnp.sort(jax.lax.top_k(scores, number)[1], axis=1)
    pick = lambda a: jnp.take_along_axis(a, places, axis=1)
    h = jnp.take_along_axis(h, places[..., None], axis=1)
    return self.value(h), pick(scores)

  def __call__(
    self, tokens: Int[Array, "B T"], state: State | None = None
  ) -> tuple[Float[Array, "B S W"], State]:
    """Logits of each next token in float32, and the state after the last token.

    Without a state the tokens are a prompt and perhaps an answer, read twice; the
    logits are those after the compressed tokens, S = T - `num_compressed(T)`. With one
    they are the next tokens, read once, and S = T.
    """
    x, state = self.hidden(tokens, state)
    return ops.product("btd,wd->btw", x, self.embedding, like=x), state

  def loss(self, batch: dict) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The summed loss in nats of what follows the compressed tokens.

    Args:
      batch: inputs, targets and weights, each [B, T]; one document a row.
    """
    x, _ = self.hidden(batch["inputs"])
    rest = slice(batch["inputs"].shape[1] - x.shape[1], None)
    weights = batch["weights"][:, rest]
    loss, right = layers.cross_entropy(
      x, self.embedding.T, batch["targets"][:, rest], weights
    )
    return loss, {"weight": jnp.sum(weights), "accuracy": right}

  @nn.nowrap
  def initial_state(self, batch_size: int) -> State:
    return Backbone(self.config).initial_state(batch_size)
