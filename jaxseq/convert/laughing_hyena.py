"""The Laughing Hyena distillery (Massaroli et al. 2023, arXiv:2310.18780, sec. 3).

    min over R, lambda of  sum_{t >= 1} (h_t - Re sum_n R_n lambda_n^{t-1})^2

Each filter h becomes a sum of few modes, a diagonal state space: the error above is the
square of the H2 norm of the difference of both systems. It is lowered by gradient
descent, as in the paper. Where it begins is ours: with the poles of Kung's realisation
(1978), which is exact if h is such a sum, and with the best residues for them.

How many modes a filter needs can be told from its Hankel matrix H_ij = h_{i+j+1}: no
system of order d comes closer to it than its singular value sigma_{d+1} (Adamyan, Arov
and Krein 1971; sec. 3.3 of the paper). A mode is a pair of conjugate poles, of order 2,
or one real pole, of order 1.

Filters are numpy, float64, but for the descent. An SVD costs O(L C^2), one a filter.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Complex, Float, Int

from jaxseq import layers
from jaxseq.modules.conv import (
  Hyena,
  LaughingHyena,
  LaughingMultiHyena,
  MultiHyena,
)

__all__ = ["Distilled", "Modes", "distill", "fit", "hankel_singular_values", "order"]

COLUMNS = 512  # C, the most of a Hankel matrix. More see no more than slower decays.
SLOWEST = 1e-6  # The least -log |lambda|: no mode may grow.
FASTEST = 30.0  # And the largest, a mode of one token.


class Modes(NamedTuple):
  """Filters as sums of modes; the arguments of `ops.modal_conv`.

  Attributes:
    log_poles: log lambda.
    residues: R.
    skip: The first taps h_0, which need no state.
  """

  log_poles: Complex[np.ndarray, "D M"]
  residues: Complex[np.ndarray, "D M"]
  skip: Float[np.ndarray, "D"]

  def filters(self, length: int) -> Float[np.ndarray, "L D"]:
    """Their first taps."""
    powers = np.exp(np.arange(length - 1)[:, None, None] * self.log_poles)
    taps = np.sum(powers * self.residues, axis=-1).real
    return np.concatenate([self.skip[None], taps])


class Distilled(NamedTuple):
  """What comes out of `distill`.

  Attributes:
    mixer: The layer that runs the modes.
    params: Its parameters.
    errors: Of each filter, the norm of what is left as a share of the filter's.
  """

  mixer: LaughingHyena | LaughingMultiHyena
  params: Any
  errors: Float[np.ndarray, "D"]


def distill(
  mixer: Hyena | MultiHyena, params, num_modes: int, *, steps: int = 1000
) -> Distilled:
  """Gives a trained layer a state of fixed size.

  Args:
    mixer: The layer.
    params: Its parameters, {"params": ...}.
    num_modes: Modes of each filter.
    steps: Of the gradient descent; see `fit`.

  Returns:
    The layer with filters of modes, its parameters, and how far off the filters are.

  Raises:
    ValueError: If the mixer is no Hyena.
  """
  classes = {Hyena: LaughingHyena, MultiHyena: LaughingMultiHyena}
  if type(mixer) not in classes:
    raise ValueError(
      f"distill needs a Hyena or a MultiHyena; got a {type(mixer).__name__}"
    )
  params = dict(nn.unbox(params)["params"])
  network = params.pop("filter")
  width = network["out"].shape[1]
  implicit = layers.ImplicitFilter(
    width,
    mixer.max_length,
    mixer.filter_width,
    mixer.num_bands,
    mixer.sine_frequency,
  )
  filters = np.asarray(implicit.apply({"params": network}))
  modes = fit(filters, num_modes, steps=steps)
  rate, angle = -modes.log_poles.real, modes.log_poles.imag
  residues = np.stack([modes.residues.real, modes.residues.imag], axis=-1)
  new = dict(log_rate=np.log(rate), angle=angle, residues=residues)
  new["skip"] = params["skip"] + modes.skip
  kind = params["skip"].dtype
  params |= {name: jnp.asarray(array, kind) for name, array in new.items()}
  options = {
    name: getattr(mixer, name)
    for name in type(mixer).__dataclass_fields__
    if name not in ("parent", "name")
  }
  distilled = classes[type(mixer)](**options, num_modes=num_modes)
  return Distilled(distilled, {"params": params}, relative_errors(modes, filters))


def relative_errors(
  modes: Modes, filters: Float[np.ndarray, "L D"]
) -> Float[np.ndarray, "D"]:
  """Norms of the differences as shares of the norms of the filters."""
  left = np.linalg.norm(filters - modes.filters(len(filters)), axis=0)
  return left / np.maximum(np.linalg.norm(filters, axis=0), 1e-30)


def hankel_singular_values(
  filters: Float[np.ndarray, "L D"],
) -> Float[np.ndarray, "D C"]:
  """Of each filter but its first tap, the largest first."""
  return np.stack([np.linalg.svd(_hankel(h), compute_uv=False) for h in filters.T])


def order(filters: Float[np.ndarray, "L D"], tolerance: float) -> Int[np.ndarray, "D"]:
  """The least order of a system that may come as close to each filter.

  Args:
    filters: The taps.
    tolerance: The largest error, a share of the first singular value.

  Returns:
    The number of singular values that are larger.
  """
  values = hankel_singular_values(filters)
  return np.sum(values > tolerance * values[:, :1], axis=1)


def fit(
  filters: Float[np.ndarray, "L D"],
  num_modes: int,
  *,
  steps: int = 1000,
  learning_rate: float = 1e-2,
) -> Modes:
  """The modes that come near the filters.

  Args:
    filters: Their taps, at least 4.
    num_modes: Modes M of each.
    steps: Of Adam, whose rate falls to nothing. The best modes on the way are kept.
    learning_rate: At first, in units of the logarithm of the rates of decay, of angles
      in radians, and of residues as shares of the filter's norm.

  Raises:
    ValueError: If the filters are too short.
  """
  if len(filters) < 4:
    raise ValueError(f"fit needs filters of at least 4 taps; got {len(filters)}")
  filters = np.asarray(filters, np.float64)
  scale = np.maximum(np.linalg.norm(filters[1:], axis=0), 1e-30)
  first = [_realize(h, num_modes) for h in (filters / scale).T]
  log_poles, residues = (np.stack(arrays) for arrays in zip(*first))
  if steps:
    start = dict(
      log_rate=np.log(-log_poles.real),
      angle=log_poles.imag,
      residues=np.stack([residues.real, residues.imag]),
    )
    best = _descend(
      jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start),
      jnp.asarray(filters[1:] / scale, jnp.float32),
      steps,
      learning_rate,
    )
    best = jax.tree.map(lambda x: np.asarray(x, np.float64), best)
    log_poles = -np.exp(best["log_rate"]) + 1j * best["angle"]
    residues = best["residues"][0] + 1j * best["residues"][1]
  return Modes(log_poles, residues * scale[:, None], filters[0])


def _hankel(h):
  """H_ij = h_{i+j+1}, [L - C, C]."""
  columns = min(len(h) // 2, COLUMNS)
  return np.lib.stride_tricks.sliding_window_view(h[1:], columns)


def _realize(h, num_modes):
  """Log poles and residues of Kung's realisation, the `num_modes` that matter most."""
  U, values, _ = np.linalg.svd(_hankel(h), full_matrices=False)
  rank = min(2 * num_modes, len(U) - 1, max(1, np.sum(values > 1e-12 * values[0])))
  # The columns C, C A, C A^2, .. in a basis of the most observable states.
  observed = U[:, :rank] * np.sqrt(values[:rank])
  poles = np.linalg.eigvals(np.linalg.lstsq(observed[:-1], observed[1:])[0])
  poles = poles[poles.imag >= 0]
  log_poles = np.log(np.where(poles == 0, np.exp(-FASTEST), poles).astype(complex))
  log_poles = np.clip(log_poles.real, -FASTEST, -SLOWEST) + 1j * log_poles.imag
  _, parts = _residues(h, log_poles)
  most = np.argsort(-np.linalg.norm(parts, axis=0))[:num_modes]
  # Where there are fewer, further ones are spread over all frequencies.
  missing = num_modes - len(most)
  spread = np.pi * (np.arange(missing) + 0.5) / max(missing, 1)
  log_poles = np.concatenate([log_poles[most], -4 / len(h) + 1j * spread])
  return log_poles, _residues(h, log_poles)[0]


def _residues(h, log_poles):
  """The best residues for these poles, and what each mode contributes [L - 1, M]."""
  powers = np.exp(np.arange(len(h) - 1)[:, None] * log_poles)
  basis = np.concatenate([powers.real, -powers.imag], axis=1)
  real, imaginary = np.split(np.linalg.lstsq(basis, h[1:])[0], 2)
  residues = real + 1j * imaginary
  return residues, (powers * residues).real


def _descend(modes, taps, steps, learning_rate):
  """Adam on the squared errors; for each filter the best modes of all steps."""
  optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
  time = jnp.arange(len(taps))[:, None, None]

  def errors(modes):
    rate = jnp.clip(jnp.exp(modes["log_rate"]), SLOWEST, FASTEST)
    powers = jnp.exp(time * jax.lax.complex(-rate, modes["angle"]))
    real, imaginary = modes["residues"]
    made = jnp.sum(powers.real * real - powers.imag * imaginary, axis=-1)
    return jnp.sum((made - taps) ** 2, axis=0)

  def loss(modes):
    each = errors(modes)
    return jnp.sum(each), each

  def step(carry, _):
    modes, moments, best, least = carry
    gradients, each = jax.grad(loss, has_aux=True)(modes)
    better = each < least
    best = jax.tree.map(lambda b, m: jnp.where(better[:, None], m, b), best, modes)
    updates, moments = optimizer.update(gradients, moments)
    modes = optax.apply_updates(modes, updates)
    return (modes, moments, best, jnp.minimum(each, least)), None

  @jax.jit
  def run(modes):
    carry = modes, optimizer.init(modes), modes, errors(modes)
    return jax.lax.scan(step, carry, length=steps)[0][2]

  return run(modes)
