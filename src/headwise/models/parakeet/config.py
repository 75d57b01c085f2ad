"""The numbers that make a Parakeet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from headwise.models.checkpoint.config import Config


@dataclass(frozen=True, kw_only=True)
class ParakeetEncoderConfig(Config):
    """A FastConformer's entries, under encoder_config; defaults are those of parakeet-ctc-0.6b.

    subsampling_factor: frames in for one frame out, a power of 2, one convolution for each. scale_input: what goes into the
    layers is multiplied by sqrt(hidden_size). attention_bias: of attention and feed-forwards; convolution_bias: of the layers'
    convolutions. layerdrop: how probable it is that training leaves a layer out. initializer_range: with the published 0.02
    spectra leave new convolutions some 1e-6 small; a small model that is to learn from nothing wants about 0.1.
    """

    supported: ClassVar = {**Config.supported, "model_type": "parakeet_encoder", "dropout_positions": 0.0}

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 8
    intermediate_size: int = 4096
    hidden_act: str = "silu"
    attention_bias: bool = True
    convolution_bias: bool = True
    conv_kernel_size: int = 9
    subsampling_factor: int = 8
    subsampling_conv_channels: int = 256
    subsampling_conv_kernel_size: int = 3
    subsampling_conv_stride: int = 2
    num_mel_bins: int = 80
    dropout: float = 0.1
    layerdrop: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    scale_input: bool = True
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subsampling_factor < 2 or self.subsampling_factor.bit_count() > 1:
            raise ValueError(f"subsampling_factor: expected a power of 2, from 2; got {self.subsampling_factor}")
        if self.num_mel_bins % self.subsampling_conv_stride**self.stages:
            raise ValueError(
                f"num_mel_bins: expected a multiple of {self.subsampling_conv_stride**self.stages}, by which the convolutions "
                f"of stride {self.subsampling_conv_stride} divide them; got {self.num_mel_bins}"
            )

    def to_entries(self) -> dict[str, Any]:
        return {"model_type": "parakeet_encoder", **super().to_entries()}

    @property
    def stages(self) -> int:
        """The convolutions that shorten."""
        return self.subsampling_factor.bit_length() - 1


@dataclass(frozen=True, kw_only=True)
class ParakeetCTCConfig(Config):
    """config.json of a ParakeetForCTC; defaults are those of parakeet-ctc-0.6b. pad_token_id: the blank."""

    vocab_size: int = 1025
    ctc_loss_reduction: Literal["mean", "sum"] = "mean"
    ctc_zero_infinity: bool = True
    encoder_config: ParakeetEncoderConfig = field(default_factory=ParakeetEncoderConfig)
    pad_token_id: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id: expected a token, below {self.vocab_size}, as the blank; got {self.pad_token_id}")
