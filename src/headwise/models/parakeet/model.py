"""Parakeet: a FastConformer (Rekesh et al. 2023) that says pieces of words, eight times fewer frames than its spectra have."""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import TransformerXL
from headwise.blocks.conformer import Conformer, ConformerLayer, Convolution
from headwise.blocks.feed_forward import FeedForward, activation
from headwise.blocks.layers import PreNorm, normal_
from headwise.models.ctc import CTCModel, CTCOutput
from headwise.models.interface import check_spectra, padding
from headwise.models.parakeet.config import ParakeetCTCConfig, ParakeetEncoderConfig

Length = TypeVar("Length", int, Tensor)


class Subsampling(nn.Module):
    """relu(W * x), then relu(W_p * (W_d * x)), each W_d of one channel alone and W_p of one place alone, until one frame stands
    for ``subsampling_factor`` of them; then W x + b of all channels and mels of a frame. A spectrum is one channel.

    Frames past a sound's end are zero in front of every convolution, as those past the batch's are.
    """

    def __init__(self, config: ParakeetEncoderConfig) -> None:
        super().__init__()
        self.kernel, self.stride = config.subsampling_conv_kernel_size, config.subsampling_conv_stride
        channels, shape = config.subsampling_conv_channels, (self.kernel, self.stride, (self.kernel - 1) // 2)
        layers: list[nn.Module] = [nn.Conv2d(1, channels, *shape), nn.ReLU()]
        for _ in range(1, config.stages):
            layers += [nn.Conv2d(channels, channels, *shape, groups=channels), nn.Conv2d(channels, channels, 1), nn.ReLU()]
        self.layers = nn.ModuleList(layers)
        self.linear = nn.Linear(channels * (config.num_mel_bins // self.stride**config.stages), config.hidden_size)

    def forward(
        self, spectra: Float[Tensor, "batch frames mels"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch fewer embed_dim"]:
        x = spectra[:, None]
        for layer in self.layers:
            x = layer(x)
            if lengths is not None and isinstance(layer, nn.ReLU):  # a stage ends; before, W_p sees each frame by itself
                lengths = self.shorten(lengths)
                x = x.masked_fill(~first(lengths, x.shape[2])[:, None, :, None], 0.0)
        return self.linear(x.transpose(1, 2).flatten(2))

    def shorten(self, lengths: Length) -> Length:
        """By one stage."""
        return (lengths + 2 * ((self.kernel - 1) // 2) - self.kernel) // self.stride + 1


class FastConformer(Conformer):
    """x = subsampling(spectra) (times sqrt(hidden_size) if scale_input), dropout; Conformer layers with the positions of
    Transformer-XL. Nothing looks past a sound's end: padding changes nothing (what stands at padding itself is nobody's
    promise, and not the reference's)."""

    def __init__(self, config: ParakeetEncoderConfig) -> None:
        super().__init__((_layer(config) for _ in range(config.num_hidden_layers)), layer_drop=config.layerdrop)
        self.config, self.subsampling, self.dropout = config, Subsampling(config), nn.Dropout(config.dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published: N(0, initializer_range^2), biases zero."""
        normal_(self, self.config.initializer_range)
        for module in self.modules():
            if isinstance(module, TransformerXL):
                nn.init.normal_(module.u, std=self.config.initializer_range)
                nn.init.normal_(module.v, std=self.config.initializer_range)

    def embed(
        self, spectra: Float[Tensor, "batch frames mels"], attention_mask: Tensor | None
    ) -> Float[Tensor, "batch fewer embed_dim"]:
        """What the layers read."""
        check_spectra(spectra, self.config.num_mel_bins, attention_mask)
        lengths = None if attention_mask is None else attention_mask.bool().sum(-1)
        x = self.subsampling(spectra.to(self.subsampling.linear.weight.dtype), lengths)
        return self.dropout(x * (self.config.hidden_size**0.5 if self.config.scale_input else 1.0))

    def shorten(self, attention_mask: Tensor | None) -> Bool[Tensor, "batch fewer"] | None:
        """Which of the frames that are left are real, where ``attention_mask`` is that of the spectra."""
        if attention_mask is None:
            return None
        longest = attention_mask.shape[1]
        for _ in range(self.config.stages):
            longest = self.subsampling.shorten(longest)
        return first(self.lengths(attention_mask), longest)

    def lengths(self, attention_mask: Tensor) -> Int[Tensor, " batch"]:
        """How many of them."""
        lengths = attention_mask.bool().sum(-1)
        for _ in range(self.config.stages):
            lengths = self.subsampling.shorten(lengths)
        return lengths


class ParakeetForCTC(CTCModel):
    """spectra -> FastConformer -> logits = W x + b of every piece, and of the blank, at each frame that is left."""

    def __init__(self, config: ParakeetCTCConfig) -> None:
        super().__init__()
        self.config, self.encoder = config, FastConformer(config.encoder_config)
        self.ctc_head = nn.Conv1d(config.encoder_config.hidden_size, config.vocab_size, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As published: N(0, initializer_range^2), biases zero."""
        self.encoder.reset_parameters()
        normal_(self.ctc_head, self.config.encoder_config.initializer_range)

    def forward(
        self,
        input_features: Float[Tensor, "batch frames mels"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch most"] | None = None,
    ) -> CTCOutput:
        """Logits of every frame that is left, (batch, fewer, vocab_size).

        input_features: log-mel spectra as the feature extractor gives them. attention_mask (batch, frames): true or 1 = a real
        frame, padding on the right. labels: the pieces, -100 where there is none. loss: -log P(labels) (``hw.ctc.loss``);
        with ctc_zero_infinity, the default, a sound with fewer frames left than labels counts as zero and teaches nothing.
        """
        real = self.encoder.shorten(attention_mask)
        x = self.encoder(self.encoder.embed(input_features, attention_mask), padding(real, None), real)
        return self.answer(self.ctc_head(x.mT).mT, attention_mask, labels)

    def frame_lengths(self, attention_mask: Tensor) -> Int[Tensor, " batch"]:
        return self.encoder.lengths(attention_mask)


def first(lengths: Int[Tensor, " batch"], longest: int) -> Bool[Tensor, "batch {longest}"]:
    """Which places lie within the first ``lengths``."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def _layer(config: ParakeetEncoderConfig) -> ConformerLayer:
    width, bias, act = config.hidden_size, config.attention_bias, activation(config.hidden_act)

    def feed_forward() -> FeedForward:
        return FeedForward(width, config.intermediate_size, act, config.activation_dropout, bias)

    return ConformerLayer(
        [PreNorm(nn.LayerNorm(width), weight=weight) for weight in (0.5, 1.0, 1.0, 0.5)],
        feed_forwards=(feed_forward(), feed_forward()),
        self_attention=MultiHeadAttention(
            width,
            config.num_attention_heads,
            bias=bias,
            position=TransformerXL(width, config.num_attention_heads),
            dropout=config.attention_dropout,
        ),
        convolution=Convolution(width, config.conv_kernel_size, act, config.convolution_bias),
        norm=nn.LayerNorm(width),
    )
