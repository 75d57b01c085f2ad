"""Llama (Touvron et al. 2023): a pre-norm decoder with rotary positions, grouped heads, RMSNorm and gated feed-forward."""

from __future__ import annotations

from functools import partial

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.module import MultiHeadAttention
from headwise.blocks.feed_forward import GatedFeedForward, activation
from headwise.blocks.layers import Layer, PreNorm, Stack, normal_
from headwise.models.causal import CausalLM
from headwise.models.llama.config import LlamaConfig


class LlamaForCausalLM(CausalLM):
    """tokens so far -> decoder -> logits of the next token.

    x = E[token]; pre-norm layers with RMSNorm, no biases; queries and keys turn with their positions; a norm at the end;
    logits = y lm_head^T, or y E^T where tied.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        norm = partial(nn.RMSNorm, config.hidden_size, eps=config.rms_norm_eps)
        layers = [
            Layer(
                lambda: PreNorm(norm()),
                self_attention=MultiHeadAttention(
                    config.hidden_size,
                    config.num_attention_heads,
                    num_kv_heads=config.num_key_value_heads,
                    head_dim=config.head_dim,
                    bias=config.attention_bias,
                    position=config.rotary(),
                    dropout=config.attention_dropout,
                ),
                feed_forward=GatedFeedForward(
                    config.hidden_size, config.intermediate_size, activation(config.hidden_act), bias=config.mlp_bias
                ),
            )
            for _ in range(config.num_hidden_layers)
        ]
        self.decoder = Stack(layers, norm())
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        normal_(self, config.initializer_range)

    def embed(self, input_ids: Int[Tensor, "batch length"], positions: Tensor) -> Float[Tensor, "batch length embed_dim"]:
        return self.embedding(input_ids)  # positions are the rotation's matter, which sees only differences

    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        return functional.linear(hidden, self.embedding.weight if self.lm_head is None else self.lm_head.weight)
