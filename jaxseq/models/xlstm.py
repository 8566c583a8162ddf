"""The stack of xLSTM (Beck et al. 2024, arXiv:2405.04517, sec. 2.4).

    a blocks:  x <- x + mlstm(norm(x))
    b blocks:  x <- x + slstm(norm(x)),   x <- x + mlp(norm(x))       mlp: a gated GELU

xLSTM[a:b], repeated. An `mlstm` has its projection up inside, an `slstm` has it after,
in an MLP 4/3 as wide as the model, rounded up to a multiple of 64. Norms are the RMS
norms of `Backbone`; the authors' subtract the mean too.
"""

from jaxseq.models.backbone import BackboneConfig

__all__ = ["xlstm_config"]


def xlstm_config(
  features: int, num_layers: int, *, num_mlstm: int = 7, num_slstm: int = 1, **fields
) -> BackboneConfig:
  """The shape of xLSTM[a:b].

  Args:
    features: Width D.
    num_layers: Blocks, a multiple of a + b.
    num_mlstm: a, blocks with a matrix memory.
    num_slstm: b, the blocks with a scalar memory after them.
    **fields: Further ones of `BackboneConfig`.

  Raises:
    ValueError: As `BackboneConfig` does.
  """
  return BackboneConfig(
    features=features,
    num_layers=num_layers,
    pattern=("mlstm",) * num_mlstm + ("slstm",) * num_slstm,
    mlp=("none",) * num_mlstm + ("geglu",) * num_slstm,
    mlp_features=-(-4 * features // 3 // 64) * 64,
    **fields,
  )
