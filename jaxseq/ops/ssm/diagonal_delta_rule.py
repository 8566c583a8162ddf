"""The delta rule with the diagonal of its transition alone: Longhorn's recurrence.

    h_t = (1 - beta_t k_t^2) h_{t-1} + beta_t k_t x_t      state [D, N], k_t [N]
    y_t = q_t h_t                                          beta_t and x_t [D]

(Liu et al. 2024, arXiv:2407.14207, sec. 3.2.) The delta rule takes k (k h) from the
state of each channel, a matrix k k^T; here only its diagonal is left, so that the
states are a selective scan whose factor is another. With N = 1 both are the same.
"""

from jaxtyping import Array, Float, Int

from jaxseq.ops.ssm import selective_scan
from jaxseq.ops.ssm.selective_scan import IMPLEMENTATIONS

__all__ = ["IMPLEMENTATIONS", "diagonal_delta_rule"]


def diagonal_delta_rule(
  x: Float[Array, "B T D"],
  beta: Float[Array, "B T D"],
  k: Float[Array, "B T N"],
  q: Float[Array, "B T N"],
  *,
  initial_state: Float[Array, "B D N"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T D"], Float[Array, "B D N"]]:
  """Moves what each channel answers to a key towards its input.

  Args:
    x: Inputs, one number for each channel to store under the key.
    beta: How far to move, such that beta k^2 is in [0, 2]. Not checked.
    k: Keys, shared by all channels.
    q: Queries, likewise.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `x`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  y, state = selective_scan.by_rule(
    "diagonal_delta_rule",
    lambda beta, k: 1 - beta[..., None, :] * (k * k)[..., :, None],
    dict(x=x, beta=beta, k=k, q=q),
    initial_state,
    segment_ids,
    implementation,
  )
  return y.astype(x.dtype), state
