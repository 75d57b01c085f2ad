"""The numbers that make a Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headwise.models.config import Config


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Defaults are the base model of Vaswani et al. 2017 (table 3); the vocabulary is shared by source and target.

    norm: "post" as published, "pre" = before each sublayer. max_positions bounds both sides: the sinusoids do not, but
    nothing longer was ever trained. label_smoothing enters the loss alone.
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
        sizes = ("vocab_size", "embed_dim", "num_heads", "feedforward_dim", "max_positions")
        tokens = ("pad_token_id", "bos_token_id", "eos_token_id")
        layers = ("num_encoder_layers", "num_decoder_layers")
        bounds = dict.fromkeys(sizes, (1, 2**31)) | dict.fromkeys(layers, (1, 1000))
        for name, (low, high) in (bounds | dict.fromkeys(tokens, (0, self.vocab_size - 1))).items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}: expected an integer from {low} to {high}; got {value!r}")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a number in [0, 1); got {getattr(self, name)!r}")
        if self.norm not in ("post", "pre"):
            raise ValueError(f'norm: expected "post" or "pre"; got {self.norm!r}')

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> TransformerConfig:
        config = super().from_entries(entries)
        if config.other:  # the format is ours alone: what is unknown is wrong
            raise ValueError(f"unknown entries {', '.join(sorted(config.other))}")
        return config
