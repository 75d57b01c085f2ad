"""wav2vec 2.0 (Baevski et al. 2020) with a Conformer for its Transformer: letters out of samples."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headwise.attention import masks
from headwise.attention.masks import Mask
from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import Rotary, TransformerXL
from headwise.blocks.conformer import Conformer, ConformerLayer, Convolution
from headwise.blocks.feed_forward import FeedForward, activation
from headwise.blocks.layers import Hidden, PreNorm, normal_
from headwise.models.ctc import CTCModel, CTCOutput
from headwise.models.interface import described
from headwise.models.wav2vec2_conformer.config import Wav2Vec2ConformerConfig
from headwise.models.wav2vec2_conformer.spec_augment import spans


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every place, where channels come before places."""

    def forward(self, x: Float[Tensor, "batch channels places"]) -> Float[Tensor, "batch channels places"]:  # type: ignore[override]
        return super().forward(x.mT).mT


class Features(nn.Module):
    """activation(norm(W * x)): fewer places, of what they were the sound or the features before."""

    def __init__(self, config: Wav2Vec2ConformerConfig, layer: int) -> None:
        super().__init__()
        inputs, outputs = (config.conv_dim[layer - 1] if layer else 1), config.conv_dim[layer]
        kernel, stride = config.conv_kernel[layer], config.conv_stride[layer]
        self.convolution = nn.Conv1d(inputs, outputs, kernel, stride, bias=config.conv_bias)
        if config.feat_extract_norm == "layer":
            self.norm = ChannelNorm(outputs)
        else:
            self.norm = nn.Identity() if layer else nn.GroupNorm(outputs, outputs)
        self.activation = activation(config.feat_extract_activation)

    def forward(self, x: Float[Tensor, "batch inputs places"]) -> Float[Tensor, "batch outputs frames"]:
        return self.activation(self.norm(self.convolution(x)))


class RotaryLayer(ConformerLayer):
    """A layer that turns its input, cut into parts as wide as a head, in place of queries and keys: as published."""

    def __init__(self, rotary: Rotary, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.rotary = rotary

    def attend(self, x: Hidden, mask: Mask | None) -> Hidden:
        parts = x.unflatten(-1, (-1, self.self_attention.head_dim)).transpose(1, 2)
        turned = self.rotary.rotate(parts, torch.arange(x.shape[1], device=x.device)).transpose(1, 2).flatten(2)
        return self.self_attention(turned, value=x, mask=mask)


class Unused(nn.Module):
    """wav2vec 2.0's convolution for positions, which published files hold, and a Conformer never computes: its kernel's norms
    and directions, and its bias. Kept so that files go back as they came."""

    def __init__(self, config: Wav2Vec2ConformerConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.num_conv_pos_embeddings
        self.bias, self.original0 = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.ones(1, 1, kernel))
        self.original1 = nn.Parameter(torch.randn(width, width // config.num_conv_pos_embedding_groups, kernel))


class Wav2Vec2ConformerForCTC(CTCModel):
    """samples -> convolutions -> frames -> Conformer -> logits of every letter, and of the blank, at each frame.

    x = W norm(features) + b, dropout; in training parts are hidden (SpecAugment); frames past a sound's end are zero; dropout;
    Conformer layers, a norm; dropout; logits = W_l x + b_l. Attention does not look past the end, but the layers' convolutions
    do, and, with feat_extract_norm "group", the features' norm: as published, so that a sound's logits depend a little on what
    it is padded to.
    """

    inv_freq: Tensor

    def __init__(self, config: Wav2Vec2ConformerConfig) -> None:
        super().__init__()
        self.config, width = config, config.hidden_size
        self.features = nn.Sequential(*(Features(config, layer) for layer in range(len(config.conv_dim))))
        self.projection = nn.Sequential(
            nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps),
            nn.Linear(config.conv_dim[-1], width),
            nn.Dropout(config.feat_proj_dropout),
        )
        hides = config.mask_time_prob > 0 or config.mask_feature_prob > 0
        self.masked_spec_embed = nn.Parameter(torch.empty(width)) if hides else None
        self.dropout, self.final_dropout = nn.Dropout(config.hidden_dropout), nn.Dropout(config.final_dropout)
        layers = [self._layer() for _ in range(config.num_hidden_layers)]
        self.encoder = Conformer(layers, nn.LayerNorm(width, eps=config.layer_norm_eps), config.layerdrop)
        self.unused = Unused(config)
        if config.position_embeddings_type == "rotary":  # which files hold, though it can be computed
            pairs = torch.arange(0, width // config.num_attention_heads, 2) / (width // config.num_attention_heads)
            self.register_buffer("inv_freq", config.rotary_embedding_base**-pairs)
        self.lm_head = nn.Linear(width, config.vocab_size)
        self.reset_parameters()

    def _layer(self) -> ConformerLayer:
        config, width, heads = self.config, self.config.hidden_size, self.config.num_attention_heads
        act, turns = activation(config.hidden_act), config.position_embeddings_type == "rotary"
        position = TransformerXL(width, heads) if config.position_embeddings_type == "relative" else None

        def residual(dropout: float, weight: float = 1.0) -> PreNorm:
            return PreNorm(nn.LayerNorm(width), dropout, weight)

        def feed_forward() -> FeedForward:
            return FeedForward(width, config.intermediate_size, act, config.activation_dropout)

        parts = {
            "residuals": (
                residual(config.hidden_dropout, 0.5),
                residual(config.attention_dropout),
                residual(config.conformer_conv_dropout),
                residual(config.hidden_dropout, 0.5),
            ),
            "feed_forwards": (feed_forward(), feed_forward()),
            "self_attention": MultiHeadAttention(width, heads, position=position, dropout=config.attention_dropout),
            "convolution": Convolution(width, config.conv_depthwise_kernel_size, act, bias=False),
            "norm": nn.LayerNorm(width),
        }
        return RotaryLayer(Rotary(float(config.rotary_embedding_base)), **parts) if turns else ConformerLayer(**parts)

    def reset_parameters(self) -> None:
        """As published: N(0, initializer_range^2) for projections, He et al. 2015 for convolutions."""
        normal_(self, self.config.initializer_range)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, TransformerXL):
                nn.init.xavier_uniform_(module.u)
                nn.init.xavier_uniform_(module.v)
        self.projection[1].reset_parameters()  # type: ignore[operator]
        if self.masked_spec_embed is not None:
            nn.init.uniform_(self.masked_spec_embed)

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch most"] | None = None,
    ) -> CTCOutput:
        """Logits of every frame, (batch, frames, vocab_size).

        input_values: sound as its feature extractor gives it (16,000 samples a second, of mean 0 and variance 1).
        attention_mask (batch, samples): true or 1 = a real sample, padding on the right; as the extractor gives it, or not: the
        published models with feat_extract_norm "group" were trained without. labels: the letters, -100 where there is none.
        loss: -log P(labels) (``hw.ctc.loss``).
        """
        self._check(input_values, attention_mask)
        x = self.projection(self.features(input_values[:, None].to(self.lm_head.weight.dtype)).mT)
        places = torch.arange(x.shape[1], device=x.device)
        real = None if attention_mask is None else places < self.frame_lengths(attention_mask)[:, None]
        x = self._hidden(x, real) if self.training and self.config.apply_spec_augment else x
        x = x if real is None else x.masked_fill(~real[..., None], 0.0)
        x = self.encoder(self.dropout(x), None if real is None else masks.padding(real))
        return self.answer(self.lm_head(self.final_dropout(x)), attention_mask, labels)

    def frame_lengths(self, attention_mask: Tensor) -> Int[Tensor, " batch"]:
        lengths = attention_mask.bool().sum(-1)
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
        return lengths.clamp(min=0)

    def _hidden(self, x: Hidden, real: Bool[Tensor, "batch frames"] | None) -> Hidden:
        """SpecAugment: spans of frames become a learned vector, spans of channels zero."""
        config, (batch, frames, width) = self.config, x.shape
        if config.mask_time_prob > 0 and self.masked_spec_embed is not None:
            lengths = x.new_full((batch,), frames, dtype=torch.long) if real is None else real.sum(-1)
            hidden = spans(lengths, frames, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks)
            x = torch.where(hidden[..., None], self.masked_spec_embed.to(x.dtype), x)
        if config.mask_feature_prob > 0:
            channels = x.new_full((batch,), width, dtype=torch.long)
            hidden = spans(channels, width, config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks)
            x = x.masked_fill(hidden[:, None], 0.0)
        return x

    def _check(self, sound: Any, attention_mask: Any) -> None:
        least = self.config.least_samples
        if not isinstance(sound, Tensor) or not sound.is_floating_point() or sound.dim() != 2 or sound.shape[1] < least:
            raise ValueError(f"input_values: expected floats (batch, at least {least} samples); got {described(sound)}")
        if attention_mask is not None and attention_mask.shape != sound.shape:
            wanted, got = tuple(sound.shape), tuple(attention_mask.shape)
            raise ValueError(f"attention_mask: expected {wanted}, 1 = a real sample; got {got}")
