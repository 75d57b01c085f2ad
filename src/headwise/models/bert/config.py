"""The numbers that make a BERT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from headwise.models.config import Config


@dataclass(frozen=True, kw_only=True)
class BertConfig(Config):
    """config.json of a BertForQuestionAnswering, BertForMaskedLM or BertForSequenceClassification; defaults are BERT base's.

    id2label: the names of the classes, by number. classifier_dropout: hidden_dropout_prob if not given. problem_type: the
    loss of classification: "regression" (squared error; the choice for one label), "single_label_classification" (for integer
    labels) or "multi_label_classification" (for float ones).
    """

    supported: ClassVar = {
        "per_layer_config": None,
        "quantization_config": None,
        "is_decoder": False,
        "add_cross_attention": False,
        "position_embedding_type": "absolute",
    }

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    id2label: Mapping[str, str] = field(default_factory=lambda: {"0": "LABEL_0", "1": "LABEL_1"})
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.id2label:
            raise ValueError("id2label: expected at least one label")

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> BertConfig:
        if entries.get("id2label") is None:
            labels = entries.get("num_labels", 2)
            if type(labels) is not int or not 0 < labels <= 2**20:
                raise ValueError(f"num_labels: expected an integer from 1 to {2**20}; got {labels!r}")
            entries = {**entries, "id2label": {str(i): f"LABEL_{i}" for i in range(labels)}}
        return super().from_entries(entries)
