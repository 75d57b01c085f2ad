"""The numbers that make a BERT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwise.models.checkpoint.config import Labelled


@dataclass(frozen=True, kw_only=True)
class BodyConfig(Labelled):
    """What the body below every head needs; defaults are BERT base's."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0


@dataclass(frozen=True, kw_only=True)
class BertConfig(BodyConfig):
    """config.json of a BertForQuestionAnswering, BertForMaskedLM or BertForSequenceClassification.

    classifier_dropout: hidden_dropout_prob if not given.
    """

    supported: ClassVar = {
        "per_layer_config": None,
        "quantization_config": None,
        "is_decoder": False,
        "add_cross_attention": False,
        "position_embedding_type": "absolute",
    }

    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True
