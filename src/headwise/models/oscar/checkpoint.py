"""Oscar's published names, and its folders: config.json without a word about what it is, and a pickled state dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwise.models.bert.checkpoint import BODY, GAMMA_AND_BETA, PREDICTIONS
from headwise.models.checkpoint.folder import TRANSFORMERS, Files, Pickles, read_weights
from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.oscar.config import OscarConfig
from headwise.models.oscar.model import BertForImageCaptioning, BertImgForPreTraining, ImageBertForSequenceClassification

KEYS = Keys(
    rows=BODY
    | PREDICTIONS
    | {
        "bert.pooler.dense.{leaf}": "bert.pooler.{leaf}",
        "bert.img_embedding.{leaf}": "bert.image_embedding.{leaf}",
        "bert.LayerNorm.{leaf}": "bert.image_norm.{leaf}",
        "classifier.{leaf}": "classifier.{leaf}",
        "cls.seq_relationship.{leaf}": "seq_relationship.{leaf}",
    },
    tied={"cls.predictions.decoder.weight": ("bert.embeddings.word_embeddings.weight",)},
    renamed=GAMMA_AND_BETA,
    head=(r"classifier\.", r"cls\."),
)
PICKLES = Pickles(TRANSFORMERS.safe, TRANSFORMERS.pickled)


class OscarFormat(Format):
    """pytorch_transformers 1.x names neither system nor class: the entries tell the one, the names of the tensors the other."""

    @property
    def files(self) -> Files:
        return PICKLES

    def signature(self, architecture: str, dtype: str) -> dict[str, Any]:
        return {}

    def holds_copies(self, places: Mapping[str, Any], untied: bool) -> bool:
        return "cls.predictions.bias" in places  # a state dict as it is; a classifier predicts no tokens

    def recognise(self, entries: Mapping[str, Any], folder: Path) -> str | None:
        if "img_feature_dim" not in entries:
            return None
        names = read_weights(folder, self.files)[0].keys()
        if any(name.startswith("classifier.") for name in names):
            return "ImageBertForSequenceClassification"
        contrasts = any(name.startswith("cls.seq_relationship.") for name in names)
        return "BertImgForPreTraining" if contrasts else "BertForImageCaptioning"


FORMAT = OscarFormat(
    "oscar",
    OscarConfig,
    {
        "ImageBertForSequenceClassification": ImageBertForSequenceClassification,
        "BertForImageCaptioning": BertForImageCaptioning,
        "BertImgForPreTraining": BertImgForPreTraining,
    },
    KEYS,
)
