"""HiFi-GAN (Kong et al. 2020), a vocoder: log-mel spectrograms become sound."""

from __future__ import annotations

from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from headwise.blocks.layers import normal_
from headwise.models.hifigan.config import HifiGanConfig
from headwise.models.interface import described

Channels = Float[Tensor, "batch channels length"]


class ResidualBlock(nn.Module):
    """x <- x + W_2 * relu(W_1 * relu(x)) for each dilation of W_1; relu is leaky."""

    def __init__(self, channels: int, kernel_size: int, dilations: list[int], slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.dilated = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2 * dilation, dilation=dilation)
            for dilation in dilations
        )
        self.plain = nn.ModuleList(nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2) for _ in dilations)

    def forward(self, x: Channels) -> Channels:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            y = dilated(functional.leaky_relu(x, self.slope))
            x = plain(functional.leaky_relu(y, self.slope)) + x
        return x


class HifiGan(nn.Module):
    """x = W_0 * (s - mean) / scale;  x <- the mean over blocks of block(U * relu(x)), for each U;  tanh(W * relu(x)).

    Every U is a transposed convolution, which makes x longer by its rate and half as wide; the blocks differ in how far they
    see. This is the generator; what it was trained against is not published with it. There is no attention in it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: HifiGanConfig) -> None:
        super().__init__()
        self.config, width, slope = config, config.upsample_initial_channel, config.leaky_relu_slope
        self.enter = nn.Conv1d(config.model_in_dim, width, 7, padding=3)
        widths = [width >> i for i in range(len(config.upsample_rates) + 1)]
        self.upsamplers = nn.ModuleList(
            nn.ConvTranspose1d(widths[i], widths[i + 1], kernel, stride=rate, padding=(kernel - rate) // 2)
            for i, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))
        )
        kinds = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, kernel, dilations, slope) for channels in widths[1:] for kernel, dilations in kinds
        )
        self.leave = nn.Conv1d(widths[-1], 1, 7, padding=3)
        self.register_buffer("mean", torch.zeros(config.model_in_dim))
        self.register_buffer("scale", torch.ones(config.model_in_dim))
        normal_(self, config.initializer_range)

    def forward(self, spectrogram: Float[Tensor, "*batch frames mel_bins"]) -> Float[Tensor, "*batch samples"]:
        """The sound of every log-mel spectrogram, ``config.hop_length`` samples a frame, in [-1, 1] (a few samples more where
        kernels are longer than their rates by odd numbers).

        One spectrogram (frames, mel_bins), or several of a length. Padding would be heard: let it be cut off before, as
        ``hw.synthesise`` does. Raises ValueError for what is no spectrogram.
        """
        bands = self.config.model_in_dim
        if spectrogram.dim() not in (2, 3) or spectrogram.shape[-1] != bands or 0 in spectrogram.shape:
            raise ValueError(
                f"spectrogram: expected (frames, {bands}) or (batch, frames, {bands}); got {described(spectrogram)}"
            )
        x = spectrogram.to(self.mean.dtype)
        x = (x - self.mean) / self.scale if self.config.normalize_before else x
        x = self.enter((x if x.dim() == 3 else x[None]).mT)
        kinds = len(self.config.resblock_kernel_sizes)
        for i, upsampler in enumerate(self.upsamplers):
            x = upsampler(functional.leaky_relu(x, self.config.leaky_relu_slope))
            x = reduce(torch.add, [block(x) for block in self.blocks[kinds * i : kinds * (i + 1)]]) / kinds
        sound = torch.tanh(self.leave(functional.leaky_relu(x)))[:, 0]  # as published: here torch's own slope, 0.01
        return sound if spectrogram.dim() == 3 else sound[0]


class SpeechT5HifiGan(HifiGan):
    """That of SpeechT5: 16,000 samples a second, 256 a frame."""


class FastSpeech2ConformerHifiGan(HifiGan):
    """That of FastSpeech 2 with Conformers: 22,050 samples a second, 256 a frame."""
