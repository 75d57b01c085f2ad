"""The numbers that make a YOLOS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from headwise.models.detection import DetectionConfig
from headwise.models.vision import VisionConfig


@dataclass(frozen=True, kw_only=True)
class YolosConfig(VisionConfig, DetectionConfig):
    """config.json of a YolosForObjectDetection; defaults are the class's.

    image_size: whose grid of patches the tables of positions have; pictures may have any other. qkv_bias: whether queries, keys
    and values have one. num_detection_tokens: the most objects that can be found in a picture. use_mid_position_embeddings:
    positions are added again after every layer but the last, from a table of its own each.
    """

    supported: ClassVar = {
        "per_layer_config": None,
        "quantization_config": None,
        "auxiliary_loss": False,  # in the reference it fails: it asks for hidden states that nobody kept
    }

    image_size: int | list[int] = field(default_factory=lambda: [512, 864])
    qkv_bias: bool = True
    num_detection_tokens: int = 100
    use_mid_position_embeddings: bool = True
