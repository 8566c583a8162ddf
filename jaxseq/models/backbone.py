"""A residual stack of mixers, in any pattern.

    x <- x + mixer(norm(x)),   x <- x + mlp(norm(x))

The pattern, such as ("gated_delta_net", "gated_delta_net", "attention"), is repeated to
the depth asked for. `nn.scan` runs over the repeats, so that the pattern is compiled
once however deep the stack is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxseq import layers, registry
from jaxseq.modules.mixer import Mixer
from jaxseq.typing import State

__all__ = ["MLPS", "REMAT", "Backbone", "BackboneConfig"]

MLPS = {"swiglu": layers.SwiGLU, "geglu": layers.GEGLU, "none": None}

# What the forward pass keeps for the backward pass, of each repeat of the pattern.
REMAT = {
  "none": None,  # Everything.
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,  # Its input alone.
}


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
  """The shape of a stack.

  Attributes:
    features: Width D.
    num_layers: Depth L, a multiple of the pattern's length.
    pattern: Names of mixers.
    num_heads: For the mixers that have heads. None leaves each its own default.
    max_length: For the mixers whose cache grows: tokens that it holds.
    mixer_options: By name of a mixer, its further attributes; or by place in the
      pattern, "0" and so on, those of that layer alone.
    mlp: A key of `MLPS`, or one for each mixer of the pattern.
    mlp_features: Inner width F. None is 8/3 D rounded up to a multiple of 32, which
      gives the three matrices the size of a plain MLP's two of 4 D.
    remat: A key of `REMAT`.
    dtype: Of the matrix products.
    param_dtype: Of the parameters.

  Raises:
    ValueError: If a field is out of range, a mixer unknown or its options wrong.
  """

  features: int
  num_layers: int
  pattern: tuple[str, ...]
  num_heads: int | None = None
  max_length: int | None = None
  mixer_options: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=dict
  )
  mlp: str | tuple[str, ...] = "swiglu"
  mlp_features: int | None = None
  remat: str = "none"
  dtype: DTypeLike = jnp.bfloat16
  param_dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    if self.features < 1 or self.num_layers < 1 or not self.pattern:
      raise ValueError(
        "a backbone needs features >= 1, num_layers >= 1 and a pattern of mixers; "
        f"got {self.features}, {self.num_layers} and {self.pattern}"
      )
    if self.num_layers % len(self.pattern):
      raise ValueError(
        f"num_layers must be a multiple of the {len(self.pattern)} layers of the "
        f"pattern {','.join(self.pattern)}; got {self.num_layers}"
      )
    if not isinstance(self.mlp, str):
      object.__setattr__(self, "mlp", tuple(self.mlp))
      if len(self.mlp) != len(self.pattern):
        raise ValueError(
          f"mlp must be one, or one for each of {','.join(self.pattern)}; "
          f"got {self.mlp!r}"
        )
    for mlp in self.mlps:
      if mlp not in MLPS:
        raise ValueError(f"mlp must be one of {tuple(MLPS)}; got {mlp!r}")
    if self.remat not in REMAT:
      raise ValueError(f"remat must be one of {tuple(REMAT)}; got {self.remat!r}")
    # Frozen, so that a config can be hashed, and a model be a static argument of `jit`.
    options = flax.core.freeze(dict(self.mixer_options))
    object.__setattr__(self, "mixer_options", options)
    places = [str(i) for i in range(len(self.pattern))]
    for name in options:
      if name.isdigit() and name not in places:
        raise ValueError(
          f"mixer_options needs places in the pattern, {', '.join(places)}; got {name}"
        )
      if name not in places:
        registry.entry(name)
    for i, name in enumerate(self.pattern):
      self.mixer(name, i)

  @property
  def repeats(self) -> int:
    return self.num_layers // len(self.pattern)

  @property
  def inner_features(self) -> int:
    return self.mlp_features or -(-8 * self.features // 3 // 32) * 32

  @property
  def mlps(self) -> tuple[str, ...]:
    """One for each mixer of the pattern."""
    return (self.mlp,) * len(self.pattern) if isinstance(self.mlp, str) else self.mlp

  def mlp_after(self, place: int, **attributes) -> nn.Module | None:
    """The MLP after the mixer at that place of the pattern, if there is one."""
    cls = MLPS[self.mlps[place]]
    types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    return cls and cls(self.features, self.inner_features, **types, **attributes)

  def mixer(self, kind: str, place: int | None = None, **attributes) -> Mixer:
    """The mixer of that name in the registry, as this stack wants it at that place."""
    cls = registry.mixer(kind)
    fields = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
    options = dict(self.mixer_options.get(kind, {}))
    options |= self.mixer_options.get(str(place), {})
    unknown = sorted(set(options) - fields)
    if unknown:
      raise ValueError(
        f"{kind} has no attribute {', '.join(unknown)}; it has {sorted(fields)}"
      )
    for shared in ("num_heads", "max_length"):
      value = getattr(self, shared)
      if shared in fields and value is not None:
        options.setdefault(shared, value)
    return cls(
      features=self.features,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      **options,
      **attributes,
    )


class _Period(nn.Module):
  """One repeat of the pattern. The carry is x, as `nn.scan` wants it."""

  config: BackboneConfig

  @nn.compact
  def __call__(self, x, states, segment_ids):
    config = self.config
    new_states = []
    for i, name in enumerate(config.pattern):
      mixer = config.mixer(name, i, name=f"mixer_{i}")
      state = None if states is None else states[i]
      y = layers.RMSNorm(param_dtype=config.param_dtype, name=f"mixer_norm_{i}")(x)
      y, state = mixer(y.astype(config.dtype), state, segment_ids=segment_ids)
      x = x + y.astype(x.dtype)
      new_states.append(state)
      mlp = config.mlp_after(i, name=f"mlp_{i}")
      if mlp is not None:
        y = layers.RMSNorm(param_dtype=config.param_dtype, name=f"mlp_norm_{i}")(x)
        x = x + mlp(y.astype(config.dtype)).astype(x.dtype)
      x = nn.with_logical_constraint(x, ("batch", "time", None))
    return x, tuple(new_states)


class Backbone(nn.Module):
  """The stack, from embeddings to normalised hidden states.

  Attributes:
    config: Its shape.
  """

  config: BackboneConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B T D"],
    state: State | None = None,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T D"], State]:
    """Applies all layers; the contract is that of a mixer.

    The state is a tuple over the pattern; its arrays have the repeats as first axis.
    """
    period = _Period
    if self.config.remat != "none":
      period = nn.remat(period, prevent_cse=False, policy=REMAT[self.config.remat])
    scanned = nn.scan(
      period,
      variable_axes={"params": 0, "losses": 0, "gates": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast),
      length=self.config.repeats,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    x, state = scanned(self.config, name="layers")(x, state, segment_ids)
    norm = layers.RMSNorm(param_dtype=self.config.param_dtype, name="final_norm")
    return norm(x), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> State:
    """The empty states of all layers."""
    states = tuple(
      self.config.mixer(name, i, parent=None).initial_state(batch_size)
      for i, name in enumerate(self.config.pattern)
    )
    repeat = lambda s: jnp.broadcast_to(s, (self.config.repeats, *s.shape))
    return jax.tree.map(repeat, states)
