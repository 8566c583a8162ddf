"""Whole models over any mixer."""

from jaxseq.models.backbone import Backbone, BackboneConfig
from jaxseq.models.language_model import LanguageModel
from jaxseq.models.pooled import Classifier, Regressor
from jaxseq.models.seq2seq import EncoderDecoder
from jaxseq.models.xlstm import xlstm_config

__all__ = [
  "Backbone",
  "BackboneConfig",
  "Classifier",
  "EncoderDecoder",
  "LanguageModel",
  "Regressor",
  "xlstm_config",
]
