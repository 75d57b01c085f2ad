"""The numbers that make a Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TransformerConfig:
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
