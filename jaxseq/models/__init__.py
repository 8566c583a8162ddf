"""Whole models over any mixer."""

from jaxseq.models.backbone import Backbone, BackboneConfig
from jaxseq.models.dense_backbone import DenseBackbone
from jaxseq.models.hiss import HiSS, HiSSState
from jaxseq.models.language_model import LanguageModel
from jaxseq.models.pooled import Classifier, Regressor
from jaxseq.models.recurrent_seq2seq import RecurrentEncoderDecoder
from jaxseq.models.remamba import ReMamba
from jaxseq.models.seq2seq import EncoderDecoder
from jaxseq.models.token_regressor import TokenRegressor
from jaxseq.models.xlstm import xlstm_config

__all__ = [
  "Backbone",
  "BackboneConfig",
  "Classifier",
  "DenseBackbone",
  "EncoderDecoder",
  "HiSS",
  "HiSSState",
  "LanguageModel",
  "ReMamba",
  "RecurrentEncoderDecoder",
  "Regressor",
  "TokenRegressor",
  "xlstm_config",
]
