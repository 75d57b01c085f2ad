"""The numbers that make a Speech2Text."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar

from headwise.models.checkpoint.config import Config


@dataclass(frozen=True, kw_only=True)
class Speech2TextDecoderConfig(Config):
    """The entries that are the decoder's, or both sides'."""

    vocab_size: int = 10000
    d_model: int = 256
    decoder_layers: int = 6
    decoder_attention_heads: int = 4
    decoder_ffn_dim: int = 2048
    activation_function: str = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    decoder_layerdrop: float = 0.0
    scale_embedding: bool = True
    tie_word_embeddings: bool = True
    max_target_positions: int = 1024
    init_std: float = 0.02
    pad_token_id: int = 1
    eos_token_id: int | list[int] = 2
    decoder_start_token_id: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id: expected an integer from 0 to {self.vocab_size - 1}; got {self.pad_token_id}")


@dataclass(frozen=True, kw_only=True)
class Speech2TextConfig(Speech2TextDecoderConfig):
    """config.json of a Speech2TextForConditionalGeneration; defaults are the class's, those of the small models.

    input_feat_per_channel, input_channels: a frame has as many numbers as their product. max_source_positions: frames, before
    the convolutions (num_conv_layers, each of stride 2; conv_channels go into the gate of all but the last, 2 d_model there).
    """

    aliases: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    encoder_layers: int = 12
    encoder_attention_heads: int = 4
    encoder_ffn_dim: int = 2048
    encoder_layerdrop: float = 0.0
    max_source_positions: int = 6000
    num_conv_layers: int = 2
    conv_kernel_sizes: list[int] = field(default_factory=lambda: [5, 5])
    conv_channels: int = 1024
    input_feat_per_channel: int = 80
    input_channels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.conv_kernel_sizes) != self.num_conv_layers:
            raise ValueError(
                f"conv_kernel_sizes: expected num_conv_layers = {self.num_conv_layers}; got {self.conv_kernel_sizes}"
            )

    @property
    def frame_size(self) -> int:
        """The numbers in a frame."""
        return self.input_feat_per_channel * self.input_channels

    @property
    def decoder(self) -> Speech2TextDecoderConfig:
        """The decoder's part."""
        return Speech2TextDecoderConfig(**{part.name: getattr(self, part.name) for part in fields(Speech2TextDecoderConfig)})
