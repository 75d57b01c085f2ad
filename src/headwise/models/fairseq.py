"""Encoders and decoders as fairseq configured them, and many published models after it (Marian, DETR, Speech2Text, Whisper)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.module import MultiHeadAttention
from headwise.blocks.feed_forward import FeedForward, activation
from headwise.blocks.layers import Layer, PostNorm, PreNorm, Stack


def layers(
    config: Any,
    side: Literal["encoder", "decoder"],
    residual: type[PostNorm],
    layer: type[Layer] = Layer,
    bias: bool | Iterable[str] = True,
) -> list[Layer]:
    """The layers of one side, by the entries ``{side}_layers``, ``{side}_attention_heads`` and ``{side}_ffn_dim``; a decoder's
    attend to the encoder's output, too. Which projections have a ``bias``: as in ``hw.MultiHeadAttention``."""

    def attention() -> MultiHeadAttention:
        heads = getattr(config, f"{side}_attention_heads")
        return MultiHeadAttention(config.d_model, heads, bias=bias, dropout=config.attention_dropout)

    act, hidden_dim = activation(config.activation_function), getattr(config, f"{side}_ffn_dim")
    return [
        layer(
            lambda: residual(nn.LayerNorm(config.d_model), config.dropout),
            self_attention=attention(),
            cross_attention=attention() if side == "decoder" else None,
            feed_forward=FeedForward(config.d_model, hidden_dim, act, config.activation_dropout),
        )
        for _ in range(getattr(config, f"{side}_layers"))
    ]


def pre_norm_stack(config: Any, side: Literal["encoder", "decoder"], bias: bool | Iterable[str] = True) -> Stack:
    """Pre-norm layers, a norm at the end; LayerDrop in training."""
    norm = nn.LayerNorm(config.d_model)
    return Stack(layers(config, side, PreNorm, bias=bias), norm, getattr(config, f"{side}_layerdrop"))


def sinusoids(positions: Tensor, width: int) -> Float[Tensor, "*positions {width}"]:
    """The first half sin(p f_m), the second cos(p f_m), f_m = 10000^(-m / (width / 2 - 1)), in float32 as published: far out
    the rounding of f_m shows. (Vaswani et al. have 2m / width in the exponent, and sines and cosines in turn.)"""
    if width < 4:
        raise ValueError(f"sinusoids have at least 4 channels here; got {width}")
    steps = torch.arange(width // 2, device=positions.device).float()
    angle = positions[..., None].float() * torch.exp(steps * (-math.log(10000) / (width // 2 - 1)))
    return functional.pad(torch.cat([angle.sin(), angle.cos()], dim=-1), (0, width % 2))
