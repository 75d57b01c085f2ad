"""Encoder and decoder layers of the Transformer, and the residual around each sublayer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.attention.cache import Cross, Growing
from headwise.attention.masks import Mask
from headwise.attention.module import MultiHeadAttention

Hidden = Float[Tensor, "batch length embed_dim"]


class PostNorm(nn.Module):
    """x <- LayerNorm(x + dropout(sublayer(x))), as published in 2017; nothing follows the last layer."""

    def __init__(self, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(embed_dim), nn.Dropout(dropout)

    def forward(self, x: Hidden, sublayer: Callable[[Tensor], Tensor]) -> Hidden:
        return self.norm(x + self.dropout(sublayer(x)))

    @staticmethod
    def last(embed_dim: int) -> nn.Module:
        return nn.Identity()


class PreNorm(PostNorm):
    """x <- x + dropout(sublayer(LayerNorm(x))); a norm follows the last layer."""

    def forward(self, x: Hidden, sublayer: Callable[[Tensor], Tensor]) -> Hidden:
        return x + self.dropout(sublayer(self.norm(x)))

    @staticmethod
    def last(embed_dim: int) -> nn.Module:
        return nn.LayerNorm(embed_dim)


Residual = type[PostNorm] | type[PreNorm]


class FeedForward(nn.Module):
    """W_2 activation(W_1 x + b_1) + b_2, at every position alike."""

    def __init__(self, embed_dim: int, hidden_dim: int, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(embed_dim, hidden_dim), nn.Linear(hidden_dim, embed_dim)
        self.activation = activation

    def forward(self, x: Hidden) -> Hidden:
        return self.contract(self.activation(self.expand(x)))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, embed_dim: int, num_heads: int, feedforward_dim: int, dropout: float, residual: Residual) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(embed_dim, num_heads)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim)
        self.residuals = nn.ModuleList(residual(embed_dim, dropout) for _ in range(2))

    def forward(self, x: Hidden, mask: Mask | None) -> Hidden:
        x = self.residuals[0](x, lambda x: self.self_attention(x, mask=mask))
        return self.residuals[1](x, self.feed_forward)


@dataclass
class DecoderCache:
    """What one decoder layer keeps between the steps of decoding."""

    own: Growing = field(default_factory=Growing)
    cross: Cross = field(default_factory=Cross)

    def reorder(self, index: Tensor) -> None:
        self.own.reorder(index)
        self.cross.reorder(index)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's output, then feed-forward."""

    def __init__(self, embed_dim: int, num_heads: int, feedforward_dim: int, dropout: float, residual: Residual) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(embed_dim, num_heads)
        self.cross_attention = MultiHeadAttention(embed_dim, num_heads)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim)
        self.residuals = nn.ModuleList(residual(embed_dim, dropout) for _ in range(3))

    def forward(self, x: Hidden, memory: Tensor, mask: Mask, memory_mask: Mask | None, cache: DecoderCache | None) -> Hidden:
        own, cross = (None, None) if cache is None else (cache.own, cache.cross)
        x = self.residuals[0](x, lambda x: self.self_attention(x, mask=mask, cache=own))
        x = self.residuals[1](x, lambda x: self.cross_attention(x, memory, mask=memory_mask, cache=cross))
        return self.residuals[2](x, self.feed_forward)
