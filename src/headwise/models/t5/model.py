"""T5 (Raffel et al. 2020): encoder and decoder with relative biases in place of positions, and no other bias anywhere."""

from __future__ import annotations

from functools import partial

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.module import MultiHeadAttention, Scores
from headwise.attention.positions import T5Buckets
from headwise.blocks.feed_forward import FeedForward, GatedFeedForward, activation
from headwise.blocks.layers import Layer, PreNorm, Stack
from headwise.models.seq2seq import TextToText
from headwise.models.t5.config import T5Config


class T5ForConditionalGeneration(TextToText):
    """source tokens -> encoder -> memory;  target tokens so far, memory -> decoder -> logits of the next token.

    x = E[token], dropout; pre-norm layers with RMSNorm; a norm and dropout at the end of each stack. Scores are not scaled;
    one table of relative biases per stack is added in all its self-attentions, nothing in cross-attention. logits = y E^T with
    y scaled by d_model^-0.5, or, untied (version 1.1), y lm_head^T.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.encoder = self._stack(config.num_layers, cross=False)
        self.decoder = self._stack(config.num_decoder_layers or config.num_layers, cross=True)
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.reset_parameters()

    def _stack(self, num_layers: int, cross: bool) -> Stack:
        config = self.config
        norm = partial(nn.RMSNorm, config.d_model, eps=config.layer_norm_epsilon)
        buckets = T5Buckets(
            config.num_heads,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            bidirectional=not cross,
        )
        attention = partial(
            MultiHeadAttention,
            config.d_model,
            config.num_heads,
            head_dim=config.d_kv,
            bias=False,
            scores=Scores(scale=1.0),
            dropout=config.dropout_rate,
        )
        layers = [
            Layer(
                lambda: PreNorm(norm(), config.dropout_rate),
                self_attention=attention(position=buckets),
                cross_attention=attention() if cross else None,
                feed_forward=self._feed_forward(),
            )
            for _ in range(num_layers)
        ]
        return Stack(layers, nn.Sequential(norm(), nn.Dropout(config.dropout_rate)))

    def _feed_forward(self) -> nn.Module:
        config, kind = self.config, self.config.feed_forward_proj.removeprefix("gated-")
        # A quirk of the published files: "gated-gelu" is computed with the tanh approximation, "gelu" is not.
        name = "gelu_new" if config.feed_forward_proj == "gated-gelu" else kind
        make = FeedForward if kind == config.feed_forward_proj else GatedFeedForward
        return make(config.d_model, config.d_ff, activation(name), config.dropout_rate, bias=False)

    def reset_parameters(self) -> None:
        """As published: N(0, 1 / inputs) for projections, queries divided by sqrt(d_kv) too, in place of a scale of scores."""
        d_model, factor = self.config.d_model, self.config.initializer_factor
        nn.init.normal_(self.embedding.weight, std=factor)
        for name, parameter in self.named_parameters():
            if name.endswith("position.weight"):
                nn.init.normal_(parameter, std=factor * d_model**-0.5)
            elif parameter.dim() == 2 and parameter is not self.embedding.weight:
                inputs = parameter.shape[1] * (self.config.d_kv if name.endswith("q_proj.weight") else 1)
                nn.init.normal_(parameter, std=factor * inputs**-0.5)

    def embed_source(self, input_ids: Int[Tensor, "batch source_len"]) -> Float[Tensor, "batch source_len embed_dim"]:
        return self.dropout(self.embedding(input_ids))

    def embed_target(
        self, input_ids: Int[Tensor, "batch target_len"], offset: int | Tensor
    ) -> Float[Tensor, "batch target_len embed_dim"]:
        return self.embed_source(input_ids)  # positions are the biases' matter

    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        hidden = hidden * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else hidden
        return functional.linear(hidden, self.embedding.weight if self.lm_head is None else self.lm_head.weight)
