"""BERT (Devlin et al. 2019)."""

from headwise.models.bert.config import BertConfig
from headwise.models.bert.model import BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification

__all__ = ["BertConfig", "BertForMaskedLM", "BertForQuestionAnswering", "BertForSequenceClassification"]
