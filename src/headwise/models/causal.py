"""A decoder alone: every token attends to those before it and predicts the next. What such models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention import masks
from headwise.attention.cache import Growing
from headwise.blocks.layers import LayerCache, Stack
from headwise.models.interface import CausalLMOutput, check_length, cross_entropy, padding


class CausalLM(nn.Module, ABC):
    """tokens so far -> decoder -> logits of the next token.

    A model says how tokens enter (``embed``) and how they leave (``logits``).
    """

    config: Any
    generation_config: Mapping[str, Any] = MappingProxyType({})  # what the checkpoint says about generating
    decoder: Stack
    max_positions: int | None = None  # None: no table that could end

    @abstractmethod
    def embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """What the first layer reads, (batch, length, embed_dim); positions (batch or 1, length)."""

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        """Scores of every token of the vocabulary."""

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
        cache: Sequence[LayerCache] | None = None,
    ) -> CausalLMOutput:
        """Logits of the token after each one given; with a cache, of those that follow the tokens it holds.

        attention_mask (batch, keys): true or 1 = a real token; with a cache, about all keys that it will then hold
        (``hw.cache.Fixed``: about all its slots). Positions count real tokens, so that padding on either side changes nothing
        (GPT-2 in transformers counts padding unless position_ids are given). labels: input_ids again, -100 where nothing is to
        be predicted; the model shifts them. loss: the mean of -log p(next token). Raises ValueError where a sequence is longer
        than the model's positions.
        """
        hidden = self.decode(input_ids, attention_mask, cache)
        logits = self.logits(hidden)
        loss = None if labels is None else cross_entropy(logits, functional.pad(labels, (0, 1), value=-100)[:, 1:])
        return CausalLMOutput(logits, hidden, loss)

    def decode(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
    ) -> Float[Tensor, "batch length embed_dim"]:
        """The last hidden states; arguments as in ``forward``."""
        real = padding(attention_mask, input_ids if cache is None else None)
        mask = masks.causal() if real is None else masks.causal() & real
        offset = 0 if cache is None else cache[0].own.length
        check_length(offset + input_ids.shape[1], self.max_positions)
        positions = (offset + torch.arange(input_ids.shape[1], device=input_ids.device))[None]
        if attention_mask is not None:
            counted = attention_mask.bool().cumsum(1) - 1  # padding on the left comes out as -1
            positions = counted.clamp(min=0).index_select(1, positions[0])
        return self.decoder(self.embed(input_ids, positions), mask, caches=cache)

    def make_cache(self, new: Callable[[], Growing] = Growing) -> list[LayerCache]:
        """Empty caches, one per layer."""
        return self.decoder.make_cache(new)
