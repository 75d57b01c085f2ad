"""The numbers that make a Marian model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwise.models.checkpoint.config import Config


@dataclass(frozen=True, kw_only=True)
class MarianConfig(Config):
    """config.json of a MarianMTModel; defaults are the class's (Helsinki's models: d_model 512, 6 + 6 layers, 8 heads, swish,
    scale_embedding). LayerDrop (0 in all of them) is read and written, not applied."""

    aliases: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 58101
    decoder_vocab_size: int | None = None
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    decoder_layers: int = 12
    decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4096
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    scale_embedding: bool = False
    share_encoder_decoder_embeddings: bool = True
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 1024
    init_std: float = 0.02
    pad_token_id: int = 58100
    eos_token_id: int | list[int] = 0
    decoder_start_token_id: int = 58100
