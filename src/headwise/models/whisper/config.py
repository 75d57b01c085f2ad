"""The numbers that make a Whisper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwise.models.checkpoint.config import Config


@dataclass(frozen=True, kw_only=True)
class WhisperConfig(Config):
    """config.json of a WhisperForConditionalGeneration; defaults are the class's, whisper-tiny's sizes.

    max_source_positions: what the encoder reads, half as many as there are frames. SpecAugment in training
    (apply_spec_augment, mask_*; off in all published models) is read and written, not applied, and so is scale_embedding,
    which the reference does not apply either.
    """

    aliases: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_key_value_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 51865
    num_mel_bins: int = 80
    d_model: int = 384
    encoder_layers: int = 4
    encoder_attention_heads: int = 6
    encoder_ffn_dim: int = 1536
    decoder_layers: int = 4
    decoder_attention_heads: int = 6
    decoder_ffn_dim: int = 1536
    activation_function: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    tie_word_embeddings: bool = True
    max_source_positions: int = 1500
    max_target_positions: int = 448
    init_std: float = 0.02
    pad_token_id: int = 50256
    eos_token_id: int | list[int] = 50256
    decoder_start_token_id: int = 50257

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id: expected an integer from 0 to {self.vocab_size - 1}; got {self.pad_token_id}")
