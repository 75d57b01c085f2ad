"""The numbers that make a ViT."""

from __future__ import annotations

from dataclasses import dataclass

from headwise.models.vision import VisionConfig


@dataclass(frozen=True, kw_only=True)
class ViTConfig(VisionConfig):
    """config.json of a ViTForImageClassification; defaults are those of ViT-B/16 at 224 pixels.

    qkv_bias: whether query, key and value projections have biases (the output's always has one).
    """

    qkv_bias: bool = True
