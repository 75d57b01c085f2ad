"""The Transformer (Vaswani et al. 2017): an encoder, a decoder that attends to it, one embedding shared by all three ends."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import sinusoids
from headwise.blocks.feed_forward import FeedForward
from headwise.blocks.layers import Layer, PostNorm, PreNorm, Stack
from headwise.models.seq2seq import TextToText
from headwise.models.transformer.config import TransformerConfig


class Transformer(TextToText):
    """source tokens -> encoder -> memory;  target tokens so far, memory -> decoder -> logits of the next token.

    Tokens enter as sqrt(embed_dim) * E[token] + sinusoid(position), then dropout; logits are y E^T with the same E.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, self.label_smoothing = config, config.label_smoothing
        self.max_positions = self.max_source_positions = config.max_positions
        self.embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = self._stack(config.num_encoder_layers, cross=False)
        self.decoder = self._stack(config.num_decoder_layers, cross=True)
        nn.init.normal_(self.embedding.weight, std=config.embed_dim**-0.5)

    def _stack(self, num_layers: int, cross: bool) -> Stack:
        config = self.config
        norm = partial(nn.LayerNorm, config.embed_dim)
        attention = partial(MultiHeadAttention, config.embed_dim, config.num_heads)
        layers = [
            Layer(
                lambda: (PostNorm if config.norm == "post" else PreNorm)(norm(), config.dropout),
                self_attention=attention(),
                cross_attention=attention() if cross else None,
                feed_forward=FeedForward(config.embed_dim, config.feedforward_dim),
            )
            for _ in range(num_layers)
        ]
        return Stack(layers, None if config.norm == "post" else norm())

    @property
    def start_token_id(self) -> int:
        return self.config.bos_token_id

    def embed_source(self, input_ids: Int[Tensor, "batch source_len"]) -> Float[Tensor, "batch source_len embed_dim"]:
        return self.embed_target(input_ids, 0)

    def embed_target(
        self, input_ids: Int[Tensor, "batch length"], offset: int | Tensor
    ) -> Float[Tensor, "batch length embed_dim"]:
        tokens = self.embedding(input_ids) * self.config.embed_dim**0.5
        positions = offset + torch.arange(input_ids.shape[-1], device=input_ids.device)
        return self.dropout(tokens + sinusoids(positions, self.config.embed_dim).to(tokens.dtype))

    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        return functional.linear(hidden, self.embedding.weight)
