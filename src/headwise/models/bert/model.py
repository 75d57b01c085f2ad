"""BERT (Devlin et al. 2019): a post-norm encoder, and three heads that read it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.module import MultiHeadAttention
from headwise.blocks.feed_forward import FeedForward, activation
from headwise.blocks.layers import Layer, PostNorm, Stack, normal_
from headwise.models.bert.config import BertConfig, BodyConfig
from headwise.models.interface import ClassifierOutput, check_length, classified, cross_entropy, exported, padding


@exported
@dataclass
class QuestionAnsweringOutput:
    """start_logits, end_logits (batch, length): scores of each token as the answer's first and last."""

    start_logits: Tensor
    end_logits: Tensor
    loss: Tensor | None = None


@exported
@dataclass
class MaskedLMOutput:
    """logits (batch, length, vocab_size): scores of every token at every place."""

    logits: Tensor
    loss: Tensor | None = None


class Bert(nn.Module):
    """x = LayerNorm(E[token] + P[position] + T[type]), dropout; then post-norm layers. The body below every head."""

    config: BodyConfig

    def __init__(self, config: BodyConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.type_embedding = nn.Embedding(config.type_vocab_size, config.hidden_size)
        norm = partial(nn.LayerNorm, config.hidden_size, eps=config.layer_norm_eps)
        self.norm, self.dropout = norm(), nn.Dropout(config.hidden_dropout_prob)
        self.encoder = Stack(
            Layer(
                lambda: PostNorm(norm(), config.hidden_dropout_prob),
                self_attention=MultiHeadAttention(
                    config.hidden_size, config.num_attention_heads, dropout=config.attention_probs_dropout_prob
                ),
                feed_forward=FeedForward(config.hidden_size, config.intermediate_size, activation(config.hidden_act)),
            )
            for _ in range(config.num_hidden_layers)
        )

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        token_type_ids: Int[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length embed_dim"]:
        """Hidden states. attention_mask: true or 1 = a real token; token_type_ids: 0 for the first text of a pair (and where
        not given), 1 for the second. Raises ValueError where a sequence is longer than the model's positions."""
        return self.encoder(self.embed(input_ids, token_type_ids), padding(attention_mask, input_ids))

    def embed(
        self,
        input_ids: Int[Tensor, "batch length"],
        token_type_ids: Int[Tensor, "batch length"] | None = None,
        position_ids: Int[Tensor, "*batch length"] | None = None,
    ) -> Float[Tensor, "batch length embed_dim"]:
        """What the first layer reads. position_ids: 0, 1, 2, ... where not given."""
        check_length(input_ids.shape[1], self.config.max_position_embeddings)
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) if position_ids is None else position_ids
        x = self.embedding(input_ids) + self.type_embedding(types) + self.position_embedding(positions)
        return self.dropout(self.norm(x))


class PredictionHead(nn.Module):
    """Scores of every token: LayerNorm(activation(W x + b)) E^T + bias. E is the embedding's, or, not ``tied``, its own."""

    def __init__(self, config: BodyConfig, tied: bool) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(config.hidden_act)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Float[Tensor, "*batch embed_dim"], embedding: nn.Embedding) -> Float[Tensor, "*batch vocab_size"]:
        weight = embedding.weight if self.lm_head is None else self.lm_head.weight
        return functional.linear(self.norm(self.activation(self.transform(hidden))), weight, self.bias)


class BertForQuestionAnswering(nn.Module):
    """Two numbers per token: how well the answer starts, and how well it ends, there."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        # Two numbers, whatever classes another head of the same body told apart: the reference counts them by the labels.
        self.config = config if config.num_labels == 2 else replace(config, id2label=BertConfig().id2label)
        self.bert, self.qa_outputs = Bert(config), nn.Linear(config.hidden_size, 2)
        normal_(self, config.initializer_range)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Int[Tensor, " batch"] | None = None,
        end_positions: Int[Tensor, " batch"] | None = None,
    ) -> QuestionAnsweringOutput:
        """Inputs as ``Bert``'s. start_positions, end_positions: the answer's first and last token; one at or past the
        sequence's end counts for nothing. loss: the mean of the two cross-entropies."""
        start, end = self.qa_outputs(self.bert(input_ids, attention_mask, token_type_ids)).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            length, asked = input_ids.shape[1], ((start, start_positions), (end, end_positions))
            loss = sum(cross_entropy(x, at.clamp(0, length), ignored=length) for x, at in asked) / 2
        return QuestionAnsweringOutput(start, end, loss)  # type: ignore[arg-type]


class BertForMaskedLM(nn.Module):
    """Scores of every token at every place."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config, self.bert = config, Bert(config)
        self.head = PredictionHead(config, config.tie_word_embeddings)
        normal_(self, config.initializer_range)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
    ) -> MaskedLMOutput:
        """Inputs as ``Bert``'s. labels: the true tokens, -100 where none is asked for. loss: the mean of -log p(label)."""
        logits = self.head(self.bert(input_ids, attention_mask, token_type_ids), self.bert.embedding)
        return MaskedLMOutput(logits, None if labels is None else cross_entropy(logits, labels))


class BertForSequenceClassification(nn.Module):
    """Scores of every class from the first token: W_c dropout(tanh(W x_0 + b)) + b_c."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config, self.bert = config, Bert(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        normal_(self, config.initializer_range)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> ClassifierOutput:
        """Inputs as ``Bert``'s. labels: (batch,) classes, (batch, labels) of 0.0 and 1.0, or the numbers to regress; the
        config's problem_type says which, or, where it does not, their number and kind."""
        pooled = self.pooler(self.bert(input_ids, attention_mask, token_type_ids)[:, 0]).tanh()
        return classified(self.classifier(self.dropout(pooled)), labels, self.config.problem_type)
