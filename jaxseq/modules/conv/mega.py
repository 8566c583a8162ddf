"""Moving average equipped gated attention (Mega, Ma et al. 2022, arXiv:2209.10655).

For each channel d a damped moving average of N dimensions           (sec. 3.1, eq. 6)

    h_t = alpha * beta x_td + (1 - alpha * delta) * h_{t-1},    alpha, delta in (0, 1)
    y_td = eta^T h_t

stands before an attention of a single head, with gates: see `gated_attention`. As in
the authors' code, and not in the paper, eta is divided by N^1/2, what goes on is
silu(y + omega * x), and in the attention tau is the number of keys that a token sees.
With `chunk_size` it is Mega-chunk (sec. 3.5), whose attention is linear in time.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.modules.conv import gated_attention
from jaxseq.modules.conv.gated_attention import GatedAttentionState
from jaxseq.modules.mixer import Mixer

__all__ = ["BidirectionalMega", "Mega"]


class Mega(Mixer):
  """A moving average before a gated attention of one head.

  The output holds the input, by the share that the update gate leaves.

  Attributes:
    key_size: Size of z, from which queries and keys are made.
    value_size: Width of the values. 2 D if None.
    ema_size: Dimensions N of the moving average of a channel.
    activation: Of the attention: "softmax", "laplace" or "relu2".
    position_bias: Whether the bias of a distance is a number ("simple") or a product of
      two vectors turned by it ("rotary").
    chunk_size: Tokens of a chunk of the attention. None is one chunk.
    norm: "layer", "scale" (one number for all channels), or None.
    norm_first: Whether it is of the inputs, not of the outputs.
    max_length: Tokens of a document, and of the cache, if there are no chunks. A call
      may not have more, and outputs of decode steps past it are NaN.
  """

  key_size: int = 128
  value_size: int | None = None
  ema_size: int = 16
  activation: str = "softmax"
  position_bias: str = "simple"
  chunk_size: int | None = None
  norm: str | None = "layer"
  norm_first: bool = True
  max_length: int = 2048

  def __post_init__(self):
    super().__post_init__()
    gated_attention.check(self)
    if self.ema_size < 1:
      name = type(self).__name__
      raise ValueError(f"{name} needs ema_size >= 1; got {self.ema_size}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    return gated_attention.mix(self, self._move, x, state, segment_ids)

  def _move(self, x, state, segment_ids):
    y, state = self._average(x, "", state, segment_ids)
    return self._activate(y, x), state

  def _average(self, x, direction, state, segment_ids):
    """The moving average and its last h. Parameters begin with the direction."""
    shape = (self.features, self.ema_size)
    param = lambda name, init: self._param(
      f"{direction}{name}", init, shape, ("embed", None)
    )
    near_zero = nn.initializers.normal(0.2)
    alpha, delta = (nn.sigmoid(param(n, near_zero)) for n in ("alpha", "delta"))
    beta = param("beta", _beta_init)
    eta = param("eta", nn.initializers.normal(1.0)) * self.ema_size**-0.5
    y, last = ops.linear_system(
      x.astype(jnp.float32),
      1 - alpha * delta,
      alpha * beta,
      eta[:, None],
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return y[..., 0], last

  def _activate(self, y, x):
    normal = nn.initializers.normal(1.0)
    omega = self._param("omega", normal, x.shape[-1:], ("embed",))
    return nn.silu(y + omega * x.astype(jnp.float32))

  @nn.nowrap
  def initial_state(self, batch_size: int) -> GatedAttentionState:
    average = jnp.zeros((batch_size, self.features, self.ema_size))
    return GatedAttentionState(average, gated_attention.initial_cache(self, batch_size))


class BidirectionalMega(Mega):
  """Mega in both directions: two moving averages, and attention to all tokens.

  The moving averages of the tokens so far and of those to come have their own
  parameters and are added; the token itself is in both (the authors' code).
  """

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    mix = functools.partial(gated_attention.mix, causal=False)
    return mix(self, self._move, x, None, segment_ids)[0], None

  def _move(self, x, state, segment_ids):
    turn = lambda a: None if a is None else a[:, ::-1]
    left, _ = self._average(x, "", None, segment_ids)
    right, _ = self._average(turn(x), "backward_", None, turn(segment_ids))
    return self._activate(left + turn(right), x), None

  @nn.nowrap
  def initial_state(self, batch_size: int):
    return Mixer.initial_state(self, batch_size)


def _beta_init(key, shape, dtype):
  """1, -1, 1, ... with a little noise."""
  signs = 1.0 - 2.0 * (jnp.arange(shape[1]) % 2)
  return nn.initializers.normal(0.02)(key, shape, dtype) + signs.astype(dtype)
