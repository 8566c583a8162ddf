"""State-space models and gated diagonal recurrences."""

from jaxseq.modules.mixer import Entry, Paper
from jaxseq.modules.ssm.caduceus import BiMamba, MambaDNA
from jaxseq.modules.ssm.hydra import Hydra
from jaxseq.modules.ssm.lmu import LMU
from jaxseq.modules.ssm.lmuformer import LMUFormer, SpikingLMUFormer
from jaxseq.modules.ssm.longhorn import Longhorn
from jaxseq.modules.ssm.mamba import CONV_SIZE as MAMBA_CONV_SIZE
from jaxseq.modules.ssm.mamba import Mamba
from jaxseq.modules.ssm.mamba2 import CONV_SIZE as MAMBA2_CONV_SIZE
from jaxseq.modules.ssm.mamba2 import Mamba2
from jaxseq.modules.ssm.mamba3 import Mamba3, MIMOMamba3
from jaxseq.modules.ssm.matrix_mixers import (
  CauchyMixer,
  DenseMixer,
  LowRankMixer,
  QuasiseparableMixer,
  SemiseparableMixer,
  ToeplitzMixer,
  VandermondeMixer,
)
from jaxseq.modules.ssm.rg_lru import CONV_SIZE, RGLRU
from jaxseq.modules.ssm.s5 import S5

__all__ = [
  "BiMamba",
  "CauchyMixer",
  "DenseMixer",
  "Hydra",
  "LMU",
  "LMUFormer",
  "Longhorn",
  "LowRankMixer",
  "MIMOMamba3",
  "MIXERS",
  "Mamba",
  "Mamba2",
  "Mamba3",
  "MambaDNA",
  "QuasiseparableMixer",
  "RGLRU",
  "S5",
  "SemiseparableMixer",
  "SpikingLMUFormer",
  "ToeplitzMixer",
  "VandermondeMixer",
]


def _mamba_size(m: Mamba | Longhorn) -> int:
  return m.width * (m.state_size + MAMBA_CONV_SIZE - 1)


def _mamba2_size(m: Mamba2) -> int:
  inputs = m.width + 2 * m.num_groups * m.state_size
  return m.width * m.state_size + (MAMBA2_CONV_SIZE - 1) * inputs


def _mamba3_size(m: Mamba3) -> int:
  state = m.width * m.state_size
  return (
    state + m.rank * (m.heads * m.state_size + m.width) + m.heads * m.state_size // 4
  )


CADUCEUS = Paper(
  "Caduceus: Bi-Directional Equivariant Long-Range DNA Sequence Modeling",
  2024,
  "2403.03234",
)


HYDRA = Paper(
  "Hydra: Bidirectional State Space Models Through Generalized Matrix Mixers",
  2024,
  "2407.09941",
)


MAMBA3 = Paper(
  "Mamba-3: Improved Sequence Modeling using State Space Principles", 2026, "2603.15569"
)


LMUFORMER = Paper(
  "LMUFormer: Low Complexity Yet Powerful Spiking Model With Legendre Memory Units",
  2024,
  "2402.04882",
)


MIXERS = (
  Entry(
    name="s5",
    cls=S5,
    paper=Paper(
      "Simplified State Space Layers for Sequence Modeling", 2022, "2208.04933"
    ),
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: m.state_size // 2,
  ),
  Entry(
    name="rg_lru",
    cls=RGLRU,
    paper=Paper(
      "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient "
      "Language Models",
      2024,
      "2402.19427",
    ),
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: CONV_SIZE * m.num_channels + 1,
  ),
  Entry(
    name="longhorn",
    cls=Longhorn,
    paper=Paper(
      "Longhorn: State Space Models are Amortized Online Learners", 2024, "2407.14207"
    ),
    op="diagonal_delta_rule",
    state="constant",
    state_size=_mamba_size,
    rows=("S231",),
  ),
  Entry(
    name="mamba",
    cls=Mamba,
    paper=Paper(
      "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
      2023,
      "2312.00752",
    ),
    op="selective_scan",
    state="constant",
    state_size=_mamba_size,
    rows=("S015", "S114", "S165"),
  ),
  Entry(
    name="mamba2",
    cls=Mamba2,
    paper=Paper(
      "Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
      "Structured State Space Duality",
      2024,
      "2405.21060",
    ),
    op="scalar_decay",
    state="constant",
    state_size=_mamba2_size,
    rows=("S165", "S357"),
  ),
  Entry(
    name="mamba3",
    cls=Mamba3,
    paper=MAMBA3,
    op="trapezoidal_decay",
    state="constant",
    state_size=_mamba3_size,
  ),
  Entry(
    name="mamba3_mimo",
    cls=MIMOMamba3,
    paper=MAMBA3,
    op="trapezoidal_decay",
    state="constant",
    state_size=_mamba3_size,
  ),
  Entry(
    name="hydra",
    cls=Hydra,
    paper=HYDRA,
    op="quasiseparable",
    state="none",
    state_size=lambda m: 0,
    causal=False,
    rows=("S219",),
  ),
  Entry(
    name="bi_mamba",
    cls=BiMamba,
    paper=CADUCEUS,
    op="selective_scan",
    state="none",
    state_size=lambda m: 0,
    causal=False,
  ),
  Entry(
    name="mamba_dna",
    cls=MambaDNA,
    paper=CADUCEUS,
    op="selective_scan",
    state="none",
    state_size=lambda m: 0,
    causal=False,
  ),
  *(
    Entry(
      name=name,
      cls=cls,
      paper=HYDRA,
      op=op,
      state="none",
      state_size=lambda m: 0,
      causal=False,
      rows=("S219",),
    )
    for name, cls, op in (
      ("dense_mixer", DenseMixer, "softmax_attention"),
      ("toeplitz_mixer", ToeplitzMixer, "toeplitz_matrix"),
      ("vandermonde_mixer", VandermondeMixer, "vandermonde_matrix"),
      ("cauchy_mixer", CauchyMixer, "cauchy_matrix"),
      ("low_rank_mixer", LowRankMixer, "noncausal_linear_attention"),
      ("semiseparable_mixer", SemiseparableMixer, "scalar_decay"),
      ("quasiseparable_mixer", QuasiseparableMixer, "quasiseparable"),
    )
  ),
  Entry(
    name="lmu",
    cls=LMU,
    paper=Paper(
      "Parallelizing Legendre Memory Unit Training",
      2021,
      "2102.11417",
    ),
    op="dense_recurrence",
    state="constant",
    state_size=lambda m: m.num_channels * m.memory_size,
    rows=("S007",),
  ),
  Entry(
    name="lmuformer",
    cls=LMUFormer,
    paper=LMUFORMER,
    op="dense_recurrence",
    state="constant",
    state_size=lambda m: m.features,
    rows=("S007",),
  ),
  Entry(
    name="spiking_lmuformer",
    cls=SpikingLMUFormer,
    paper=LMUFORMER,
    op="dense_recurrence",
    state="constant",
    state_size=lambda m: 2 * m.features + sum(m.widths.values()),
    rows=("S007",),
  ),
)
