"""The numbers that make an Oscar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from headwise.models.bert.config import BodyConfig
from headwise.models.checkpoint.config import Labelled


@dataclass(frozen=True, kw_only=True)
class OscarConfig(BodyConfig):
    """config.json as pytorch_transformers 1.x writes it, with Oscar's entries; defaults are the base model's.

    img_feature_dim: a region's numbers, 2048 of a detector and 6 of its box. img_feature_type: "frcnn", "faster_r-cnn"; the
    discrete codes of "dis_code..." are not read here. use_img_layernorm, img_layer_norm_eps: a norm of the regions (VinVL).
    classifier: "linear", or "mlp" with a hidden layer of cls_hidden_scale * hidden_size. loss_type: of classification, "kl",
    "bce" or cross-entropy. tie_weights: a captioner's logits read the words' embedding; freeze_embedding: which is not trained.
    label_smoothing; drop_worst_ratio: the share of a batch's masked words, those of the largest loss, that is left out, after
    drop_worst_after losses. num_contrast_classes: of pretraining (3 in VinVL).
    """

    supported: ClassVar = {"pruned_heads": {}, "problem_type": None, "torchscript": False}

    img_feature_dim: int = 2054
    img_feature_type: str = "frcnn"
    use_img_layernorm: Literal[0, 1] | None = None
    img_layer_norm_eps: float = 1e-12
    classifier: Literal["linear", "mlp"] = "linear"
    cls_hidden_scale: int = 2
    loss_type: str | None = None
    tie_weights: bool = False
    freeze_embedding: bool = False
    label_smoothing: float | int = 0  # as the original writes it
    drop_worst_ratio: float | int = 0
    drop_worst_after: float | int = 0
    num_contrast_classes: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.img_feature_type.startswith("dis_code"):
            raise ValueError(f"img_feature_type is {self.img_feature_type!r}: regions as discrete codes are not known here")
        for name in ("label_smoothing", "drop_worst_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a number in [0, 1); got {getattr(self, name)}")

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> OscarConfig:
        config = super().from_entries(entries)
        return replace(config, other={name: entry for name, entry in config.other.items() if name != "num_labels"})

    def to_entries(self) -> dict[str, Any]:
        """With the number of the classes, which is what the original counts by; their names only where they have some."""
        entries = super().to_entries() | {"num_labels": self.num_labels}
        nameless = self.id2label == Labelled.from_entries({"num_labels": self.num_labels}).id2label
        return {name: entry for name, entry in entries.items() if not (nameless and name in ("id2label", "label2id"))}
