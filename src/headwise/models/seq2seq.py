"""An encoder reads one sequence, a decoder writes another while it attends to what the encoder made: what such models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headwise.attention import masks
from headwise.attention.cache import Growing
from headwise.blocks.layers import LayerCache, Stack
from headwise.models.interface import Seq2SeqOutput, check_length, cross_entropy, padding


class EncoderDecoder(nn.Module, ABC):
    """source -> encoder -> memory;  target tokens so far, memory -> decoder -> logits of the next token.

    A model says how its source is read (``encode``), how tokens enter (``embed_target``) and how they leave (``logits``).
    """

    config: Any
    generation_config: Mapping[str, Any] = MappingProxyType({})  # what the checkpoint says about generating
    decoder: Stack
    max_positions: int | None = None  # of the target; None: no table that could end
    label_smoothing: float = 0.0

    @abstractmethod
    def encode(self, source: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The source as the decoder reads it, (batch, memory_len, embed_dim)."""

    def memory_mask(self, attention_mask: Tensor | None) -> Tensor | None:
        """What is real in the memory, where ``attention_mask`` is that of the source: the same, unless the encoder shortens."""
        return attention_mask

    @abstractmethod
    def embed_target(self, input_ids: Tensor, offset: int | Tensor) -> Tensor:
        """What the decoder reads, (batch, target_len, embed_dim), the first token at position ``offset``."""

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        """Scores of every token of the vocabulary."""

    @property
    def start_token_id(self) -> int:
        """What the decoder reads first."""
        return self.config.decoder_start_token_id

    def answer(
        self,
        source: Tensor,
        attention_mask: Tensor | None,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        labels: Tensor | None,
    ) -> Seq2SeqOutput:
        """One pass over whole sequences: what every ``forward`` does."""
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("give decoder_input_ids or labels: the decoder needs something to read")
            decoder_input_ids = self.shift_right(labels)
        memory = self.encode(source, attention_mask)
        hidden = self.decode(decoder_input_ids, memory, self.memory_mask(attention_mask), decoder_attention_mask)
        logits = self.logits(hidden)
        loss = None if labels is None else cross_entropy(logits, labels, self.label_smoothing)
        return Seq2SeqOutput(logits, memory, loss)

    def decode(
        self,
        input_ids: Int[Tensor, "batch target_len"],
        memory: Float[Tensor, "batch memory_len embed_dim"],
        memory_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
    ) -> Float[Tensor, "batch target_len embed_dim"]:
        """Hidden states of the target tokens given; with a cache, of those that follow the tokens it holds."""
        offset = 0 if cache is None else cache[0].own.length
        check_length(offset + input_ids.shape[1], self.max_positions)
        own = padding(decoder_attention_mask, input_ids if cache is None else None)
        mask = masks.causal() if own is None else masks.causal() & own
        return self.decoder(self.embed_target(input_ids, offset), mask, memory, padding(memory_mask, memory), cache)

    def make_cache(self, new: Callable[[], Growing] = Growing) -> list[LayerCache]:
        """Empty caches, one per decoder layer."""
        return self.decoder.make_cache(new)

    def shift_right(self, labels: Int[Tensor, "batch target_len"]) -> Int[Tensor, "batch target_len"]:
        """What the decoder reads when it is to predict ``labels``."""
        start = torch.full_like(labels[:, :1], self.start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)


class TextToText(EncoderDecoder):
    """A source of tokens; ``embed_source`` says how they enter."""

    encoder: Stack
    max_source_positions: int | None = None  # None: no table that could end

    @abstractmethod
    def embed_source(self, input_ids: Tensor) -> Tensor:
        """What the encoder reads, (batch, source_len, embed_dim)."""

    def encode(
        self, source: Int[Tensor, "batch source_len"], attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch source_len embed_dim"]:
        check_length(source.shape[1], self.max_source_positions)
        return self.encoder(self.embed_source(source), padding(attention_mask, source))

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
        where none is; without decoder_input_ids the decoder reads them shifted right, after its start token. loss: the mean
        of -log p(label), smoothed by label_smoothing. Raises ValueError where a sequence is longer than the model's positions.
        """
        return self.answer(input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, labels)


class SpeechToText(EncoderDecoder):
    """A source of sound, as spectra; ``embed_source`` says how they enter."""

    encoder: Any  # (x, mask) -> memory

    @abstractmethod
    def embed_source(self, input_features: Tensor, attention_mask: Tensor | None) -> Tensor:
        """What the encoder reads, (batch, memory_len, embed_dim)."""

    def encode(
        self, source: Float[Tensor, "batch a b"], attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch memory_len embed_dim"]:
        x = self.embed_source(source, attention_mask)
        return self.encoder(x, padding(self.memory_mask(attention_mask), x))

    def forward(
        self,
        input_features: Float[Tensor, "batch a b"],
        attention_mask: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "batch target_len"] | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch target_len"] | None = None,
    ) -> Seq2SeqOutput:
        """One pass over whole sequences.

        input_features: as the checkpoint's feature extractor gives them, (batch, frames, mels), for Whisper (batch, mels,
        frames). attention_mask (batch, frames): true or 1 = a real frame; decoder_attention_mask (batch, target_len): a real
        token. labels: the tokens to predict, -100 where none is; without decoder_input_ids the decoder reads them shifted
        right, after its start token. loss: the mean of -log p(label). Raises ValueError where a sequence is longer than the
        model's positions.
        """
        return self.answer(input_features, attention_mask, decoder_input_ids, decoder_attention_mask, labels)
