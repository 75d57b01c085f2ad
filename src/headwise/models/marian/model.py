"""Marian (Junczys-Dowmunt et al. 2018): the Transformer of 2017 as Helsinki's translation models have it."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.positions import sinusoids
from headwise.blocks.layers import PostNorm, Stack, normal_
from headwise.models import fairseq
from headwise.models.marian.config import MarianConfig
from headwise.models.seq2seq import TextToText


class MarianMTModel(TextToText):
    """source tokens -> encoder -> memory;  target tokens so far, memory -> decoder -> logits of the next token.

    x = E[token] (times sqrt(d_model) if scale_embedding) + sinusoid(position), dropout; post-norm layers, no norm at the end;
    logits = y E^T + final_logits_bias. One E serves source, target and logits; without share_encoder_decoder_embeddings each
    side has its own, without tie_word_embeddings the logits too.
    """

    final_logits_bias: Tensor

    def __init__(self, config: MarianConfig) -> None:
        super().__init__()
        self.config = config
        self.max_positions = self.max_source_positions = config.max_position_embeddings
        embedding = partial(nn.Embedding, embedding_dim=config.d_model, padding_idx=config.pad_token_id)
        target_size = config.decoder_vocab_size or config.vocab_size
        if config.share_encoder_decoder_embeddings:
            self.embedding, target_size = embedding(config.vocab_size), config.vocab_size
        else:
            self.source_embedding, self.target_embedding = embedding(config.vocab_size), embedding(target_size)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Stack(fairseq.layers(config, "encoder", PostNorm))
        self.decoder = Stack(fairseq.layers(config, "decoder", PostNorm))
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.d_model, target_size, bias=False)
        self.register_buffer("final_logits_bias", torch.zeros(1, target_size))
        normal_(self, config.init_std)

    def embed_source(self, input_ids: Int[Tensor, "batch source_len"]) -> Float[Tensor, "batch source_len embed_dim"]:
        shared = self.config.share_encoder_decoder_embeddings
        return self._embed(input_ids, self.embedding if shared else self.source_embedding, 0)

    def embed_target(
        self, input_ids: Int[Tensor, "batch target_len"], offset: int | Tensor
    ) -> Float[Tensor, "batch target_len embed_dim"]:
        return self._embed(input_ids, self._target_embedding, offset)

    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        weight = self._target_embedding.weight if self.lm_head is None else self.lm_head.weight
        return functional.linear(hidden, weight) + self.final_logits_bias[0]

    @property
    def _target_embedding(self) -> nn.Embedding:
        return self.embedding if self.config.share_encoder_decoder_embeddings else self.target_embedding

    def _embed(self, input_ids: Tensor, embedding: nn.Embedding, offset: int | Tensor) -> Tensor:
        tokens = embedding(input_ids) * (self.config.d_model**0.5 if self.config.scale_embedding else 1.0)
        positions = offset + torch.arange(input_ids.shape[-1], device=input_ids.device)
        table = sinusoids(positions, self.config.d_model, torch.float64)  # as published: computed wide, sines before cosines
        return self.dropout(tokens + torch.cat([table[:, 0::2], table[:, 1::2]], dim=-1).to(tokens.dtype))
