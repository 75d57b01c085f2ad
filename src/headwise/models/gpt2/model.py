"""GPT-2 (Radford et al. 2019): a pre-norm decoder with learned positions."""

from __future__ import annotations

from functools import partial

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.module import MultiHeadAttention, Scores
from headwise.blocks.feed_forward import FeedForward, activation
from headwise.blocks.layers import Layer, PreNorm, Stack, normal_
from headwise.models.causal import CausalLM
from headwise.models.gpt2.config import GPT2Config


class GPT2LMHeadModel(CausalLM):
    """tokens so far -> decoder -> logits of the next token.

    x = E[token] + P[position], dropout; pre-norm layers, a norm at the end; logits = y E^T.
    """

    norm: type[nn.LayerNorm | nn.RMSNorm] = nn.LayerNorm

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config, self.max_positions = config, config.n_positions
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.n_positions, config.n_embd)
        self.dropout = nn.Dropout(config.embd_pdrop)
        norm = partial(self.norm, config.n_embd, eps=config.layer_norm_epsilon)
        hidden_dim = config.n_inner or 4 * config.n_embd
        layers = [
            Layer(
                lambda: PreNorm(norm(), config.resid_pdrop),
                self_attention=MultiHeadAttention(
                    config.n_embd, config.n_head, scores=self._scores(i), dropout=config.attn_pdrop
                ),
                feed_forward=FeedForward(config.n_embd, hidden_dim, activation(config.activation_function)),
            )
            for i in range(config.n_layer)
        ]
        self.decoder = Stack(layers, norm())
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.n_embd, config.num_outputs, bias=False)
        self.reset_parameters()

    def _scores(self, layer: int) -> Scores:
        config = self.config
        scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        return Scores(scale=scale / (layer + 1 if config.scale_attn_by_inverse_layer_idx else 1))

    def reset_parameters(self) -> None:
        """As published: N(0, 0.02^2), and what adds to the residual stream divided by sqrt(2 n_layer)."""
        config = self.config
        normal_(self, config.initializer_range)
        for name, parameter in self.named_parameters():
            if name.endswith(("out_proj.weight", "contract.weight")):
                nn.init.normal_(parameter, std=config.initializer_range * (2 * config.n_layer) ** -0.5)

    def embed(
        self, input_ids: Int[Tensor, "batch length"], positions: Int[Tensor, "#batch length"]
    ) -> Float[Tensor, "batch length embed_dim"]:
        return self.dropout(self.embedding(input_ids) + self.position_embedding(positions))

    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        return functional.linear(hidden, self.embedding.weight if self.lm_head is None else self.lm_head.weight)
