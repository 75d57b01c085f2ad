"""The numbers that make a HiFi-GAN."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from headwise.models.checkpoint.config import Config


def _dilations() -> list[list[int]]:
    return [[1, 3, 5], [1, 3, 5], [1, 3, 5]]


@dataclass(frozen=True, kw_only=True)
class HifiGanConfig(Config):
    """config.json of a HiFi-GAN.

    model_in_dim: bands of the spectrogram. upsample_rates: by how much each transposed convolution lengthens, together the
    samples of a frame; upsample_kernel_sizes: theirs, at least the rates. upsample_initial_channel: channels before the first,
    each halves them. resblock_*: the residual blocks after each, whose outputs are averaged: one per kernel size, with one
    convolution per dilation. normalize_before: the spectrogram minus ``mean``, over ``scale``.
    """

    model_in_dim: int = 80
    upsample_initial_channel: int = 512
    upsample_rates: list[int] = field(default_factory=lambda: [8, 8, 2, 2])
    upsample_kernel_sizes: list[int] = field(default_factory=lambda: [16, 16, 4, 4])
    resblock_kernel_sizes: list[int] = field(default_factory=lambda: [3, 7, 11])
    resblock_dilation_sizes: list[list[int]] = field(default_factory=_dilations)
    initializer_range: float = 0.01
    leaky_relu_slope: float = 0.1
    normalize_before: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        rates, kernels = self.upsample_rates, self.upsample_kernel_sizes
        if not rates or len(rates) != len(kernels) or any(k < r for k, r in zip(kernels, rates, strict=True)):
            raise ValueError(
                f"upsample_rates, upsample_kernel_sizes: expected as many, at least as large; got {rates}, {kernels}"
            )
        if self.upsample_initial_channel >> len(rates) < 1:
            raise ValueError(
                f"upsample_initial_channel: expected at least {2 ** len(rates)}, to be halved {len(rates)} times; "
                f"got {self.upsample_initial_channel}"
            )
        sizes, dilations = self.resblock_kernel_sizes, self.resblock_dilation_sizes
        if not sizes or len(sizes) != len(dilations) or any(size % 2 == 0 for size in sizes):
            raise ValueError(
                f"resblock_kernel_sizes, resblock_dilation_sizes: expected as many, odd sizes; got {sizes}, {dilations}"
            )

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return prod(self.upsample_rates)


@dataclass(frozen=True, kw_only=True)
class SpeechT5HifiGanConfig(HifiGanConfig):
    """config.json of a SpeechT5HifiGan; defaults are the published vocoder's. sampling_rate: of what it says, in Hz."""

    sampling_rate: int = 16000
    upsample_rates: list[int] = field(default_factory=lambda: [4, 4, 4, 4])
    upsample_kernel_sizes: list[int] = field(default_factory=lambda: [8, 8, 8, 8])


@dataclass(frozen=True, kw_only=True)
class FastSpeech2ConformerHifiGanConfig(HifiGanConfig):
    """config.json of a FastSpeech2ConformerHifiGan; defaults are the published vocoder's, of 22,050 Hz."""
