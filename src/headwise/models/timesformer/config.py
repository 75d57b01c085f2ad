"""The numbers that make a TimeSformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headwise.models.vision import VisionConfig


@dataclass(frozen=True, kw_only=True)
class TimesformerConfig(VisionConfig):
    """config.json of a TimesformerForVideoClassification; defaults are those of the base model at 8 frames.

    attention_type: "divided_space_time": over time and over space by turns; "joint_space_time": over all patches of all frames
    together; "space_only": frame by frame. qkv_bias: whether query, key and value projections have biases. drop_path_rate: of
    stochastic depth in the last layer, falling to 0 in the first.
    """

    num_frames: int = 8
    attention_type: Literal["divided_space_time", "joint_space_time", "space_only"] = "divided_space_time"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    drop_path_rate: int | float = 0  # the reference reads whole numbers alone, and files say 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate: expected a number in [0, 1); got {self.drop_path_rate}")

    def drop_path(self, layer: int) -> float:
        """The rate of one layer, the first being 0."""
        return self.drop_path_rate * layer / max(1, self.num_hidden_layers - 1)
