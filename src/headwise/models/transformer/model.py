"""The Transformer (Vaswani et al. 2017): an encoder, a decoder that attends to it, one embedding shared by all three ends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention import masks
from headwise.attention.masks import Mask
from headwise.attention.positions import sinusoids
from headwise.blocks.layers import DecoderCache, DecoderLayer, EncoderLayer, PostNorm, PreNorm
from headwise.models.transformer.config import TransformerConfig

RESIDUALS = {"post": PostNorm, "pre": PreNorm}


@dataclass
class Seq2SeqOutput:
    """logits (batch, target_len, vocab_size); loss where labels were given; the encoder's last hidden state."""

    logits: Tensor
    encoder_last_hidden_state: Tensor
    loss: Tensor | None = None


class Encoder(nn.Module):
    """num_encoder_layers of self-attention and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        residual = RESIDUALS[config.norm]
        self.layers = nn.ModuleList(
            EncoderLayer(config.embed_dim, config.num_heads, config.feedforward_dim, config.dropout, residual)
            for _ in range(config.num_encoder_layers)
        )
        self.norm = residual.last(config.embed_dim)

    def forward(self, x: Tensor, mask: Mask | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class Decoder(nn.Module):
    """num_decoder_layers of causal self-attention, attention to the encoder's output, and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        residual = RESIDUALS[config.norm]
        self.layers = nn.ModuleList(
            DecoderLayer(config.embed_dim, config.num_heads, config.feedforward_dim, config.dropout, residual)
            for _ in range(config.num_decoder_layers)
        )
        self.norm = residual.last(config.embed_dim)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Mask, memory_mask: Mask | None, cache: list[DecoderCache] | None
    ) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x, memory, mask, memory_mask, None if cache is None else cache[i])
        return self.norm(x)


class Transformer(nn.Module):
    """source tokens -> encoder -> memory;  target tokens so far, memory -> decoder -> logits of the next token.

    Tokens enter as sqrt(embed_dim) * E[token] + sinusoid(position), then dropout; logits are y E^T with the same E.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        nn.init.normal_(self.embedding.weight, std=config.embed_dim**-0.5)

    def forward(
        self,
        input_ids: Int[Tensor, "batch source_len"],
        attention_mask: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "batch target_len"] | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch target_len"] | None = None,
    ) -> Seq2SeqOutput:
        """One pass over whole sequences.

        attention_mask, decoder_attention_mask (batch, length): true or 1 = a real token. labels: the tokens to predict, -100
        where none is; without decoder_input_ids the decoder reads them shifted right, after the token bos_token_id.
        Raises ValueError where a sequence is longer than max_positions.
        """
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("give decoder_input_ids or labels: the decoder needs something to read")
            decoder_input_ids = self.shift_right(labels)
        memory = self.encode(input_ids, attention_mask)
        hidden = self.decode(decoder_input_ids, memory, attention_mask, decoder_attention_mask)
        logits = self.logits(hidden)
        loss = None
        if labels is not None:
            scores = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
            loss = functional.cross_entropy(scores, labels.flatten(), label_smoothing=self.config.label_smoothing)
        return Seq2SeqOutput(logits, memory, loss)

    def encode(
        self, input_ids: Int[Tensor, "batch source_len"], attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch source_len embed_dim"]:
        """The source as the decoder reads it."""
        return self.encoder(self.embed(input_ids), _padding(attention_mask))

    def decode(
        self,
        input_ids: Int[Tensor, "batch target_len"],
        memory: Float[Tensor, "batch source_len embed_dim"],
        attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        cache: list[DecoderCache] | None = None,
    ) -> Float[Tensor, "batch target_len embed_dim"]:
        """Hidden states of the target tokens given; with a cache, of those that follow the tokens it holds."""
        mask, memory_mask = masks.causal(), _padding(attention_mask)
        if decoder_attention_mask is not None:
            mask = mask & masks.padding(decoder_attention_mask.bool())
        offset = 0 if cache is None else cache[0].own.length
        return self.decoder(self.embed(input_ids, offset), memory, mask, memory_mask, cache)

    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        """Scores of every token of the vocabulary."""
        return functional.linear(hidden, self.embedding.weight)

    def make_cache(self) -> list[DecoderCache]:
        """Empty caches, one per decoder layer."""
        return [DecoderCache() for _ in self.decoder.layers]

    def embed(self, ids: Int[Tensor, "batch length"], offset: int = 0) -> Float[Tensor, "batch length embed_dim"]:
        """Tokens and their positions, from ``offset`` on."""
        length = offset + ids.shape[-1]
        if length > self.config.max_positions:
            raise ValueError(f"{length} tokens are more than this model's {self.config.max_positions} positions")
        tokens = self.embedding(ids) * self.config.embed_dim**0.5
        positions = torch.arange(offset, length, device=ids.device)
        return self.dropout(tokens + sinusoids(positions, self.config.embed_dim).to(tokens.dtype))

    def shift_right(self, labels: Int[Tensor, "batch target_len"]) -> Int[Tensor, "batch target_len"]:
        """What the decoder reads when it is to predict ``labels``."""
        start = torch.full_like(labels[:, :1], self.config.bos_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)


def _padding(attention_mask: Tensor | None) -> Mask | None:
    return None if attention_mask is None else masks.padding(attention_mask.bool())
