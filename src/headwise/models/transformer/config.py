"""The numbers that make a Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headwise.models.checkpoint.config import Config


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Defaults are the base model of Vaswani et al. 2017 (table 3); the vocabulary is shared by source and target.

    norm: "post" as published, "pre" = before each sublayer. max_positions bounds both sides: the sinusoids do not, but
    nothing longer was ever trained. label_smoothing enters the loss alone, also in eval mode.
    """

    vocab_size: int
    embed_dim: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    feedforward_dim: int = 2048
    dropout: float = 0.1
    label_smoothing: float = 0.1
    norm: Literal["post", "pre"] = "post"
    max_positions: int = 512
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"{name}: expected an integer from 0 to {self.vocab_size - 1}; got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a number in [0, 1); got {self.label_smoothing}")

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> TransformerConfig:
        config = super().from_entries(entries)
        if config.other:  # the format is ours alone: what is unknown is wrong
            raise ValueError(f"unknown entries {', '.join(sorted(config.other))}")
        return config
