"""The numbers that make a VideoMAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwise.models.vision import VisionConfig


@dataclass(frozen=True, kw_only=True)
class VideoMAEConfig(VisionConfig):
    """config.json of a VideoMAEForVideoClassification; defaults are those of the base model at 16 frames.

    tubelet_size: frames in a patch. qv_bias: whether query and value projections have biases (the key's never has one, the
    output's always). use_mean_pooling: the mean over all patches is classified, otherwise the first.
    """

    aliases: ClassVar = {"qkv_bias": "qv_bias"}

    num_frames: int = 16
    tubelet_size: int = 2
    qv_bias: bool = True
    use_mean_pooling: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_frames < self.tubelet_size:
            raise ValueError(f"num_frames: expected at least one patch of {self.tubelet_size} frames; got {self.num_frames}")
