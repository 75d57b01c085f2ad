"""Oscar (Li et al. 2020; with a norm of the regions VinVL, Zhang et al. 2021): BERT reads a text, the names of the objects
that a detector saw ("tags"), and the regions where it saw them, as one sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention import masks
from headwise.attention.masks import Mask
from headwise.blocks.layers import normal_
from headwise.models.bert.model import Bert, PredictionHead
from headwise.models.interface import ClassifierOutput, cross_entropy, described, exported, padding
from headwise.models.oscar.config import OscarConfig
from headwise.models.oscar.loss import CaptionLoss, check_masks


@exported
@dataclass
class CaptionOutput:
    """logits (batch, masks, vocab_size) of each masked token, or (batch, length, vocab_size) of every token of the text; loss
    where masked_ids were given."""

    logits: Tensor
    loss: Tensor | None = None


@exported
@dataclass
class PreTrainingOutput:
    """prediction_logits (batch, length + regions, vocab_size); seq_relationship_logits (batch, num_contrast_classes): whether
    text and tags belong together; loss where labels were given."""

    prediction_logits: Tensor
    seq_relationship_logits: Tensor
    loss: Tensor | None = None


class BertImgModel(Bert):
    """[BERT's embedding of the text, dropout(W f + b)]: every region's features f are a further row, without position or type
    (VinVL: dropout(LayerNorm(W f + b))). The body below every head."""

    def __init__(self, config: OscarConfig) -> None:
        super().__init__(config)
        self.image_embedding = nn.Linear(config.img_feature_dim, config.hidden_size)
        norm = nn.LayerNorm(config.hidden_size, eps=config.img_layer_norm_eps)
        self.image_norm = norm if config.use_img_layernorm else nn.Identity()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | Mask | None = None,
        token_type_ids: Int[Tensor, "batch length"] | None = None,
        img_feats: Float[Tensor, "batch regions feature_dim"] | None = None,
        position_ids: Int[Tensor, "*batch length"] | None = None,
    ) -> Float[Tensor, "batch rows embed_dim"]:
        """Hidden states of the text, then of the regions. token_type_ids: 0 = words, 1 = tags. attention_mask: true or 1 = may
        be attended to, (batch, length + regions) about keys or (batch, length + regions, length + regions) about pairs, or a
        rule of hw.masks. Raises ValueError where features or masks do not fit, or the text is longer than the positions."""
        x = self.embed(input_ids, token_type_ids, position_ids)
        if img_feats is not None:
            x = torch.cat([x, self.embed_regions(img_feats)], dim=1)
        return self.encoder(x, _rule(attention_mask, x))

    def embed_regions(self, img_feats: Float[Tensor, "batch regions feature_dim"]) -> Float[Tensor, "batch regions embed_dim"]:
        wanted = self.image_embedding.in_features
        if img_feats.dim() != 3 or img_feats.shape[-1] != wanted:
            raise ValueError(f"img_feats: expected (batch, regions, {wanted}); got {described(img_feats)}")
        return self.dropout(self.image_norm(self.image_embedding(img_feats.to(self.image_embedding.weight.dtype))))

    def pooled(self, hidden: Float[Tensor, "batch rows embed_dim"]) -> Float[Tensor, "batch embed_dim"]:
        """tanh(W x_0 + b), of the first token."""
        return self.pooler(hidden[:, 0]).tanh()


def _rule(attention_mask: Tensor | Mask | None, x: Tensor) -> Mask | None:
    if isinstance(attention_mask, Mask):
        return attention_mask
    if attention_mask is None or attention_mask.dim() != 3:
        return padding(attention_mask, x)
    batch, rows = x.shape[:2]
    if attention_mask.shape != (batch, rows, rows):
        raise ValueError(f"attention_mask: expected {(batch, rows, rows)}; got {tuple(attention_mask.shape)}")
    return masks.dense(attention_mask.bool()[:, None])


class ImageBertForSequenceClassification(nn.Module):
    """Scores of every class (of every answer, in VQA) from the first token: classifier(dropout(tanh(W x_0 + b))).

    text, (seen, real) = tokenizer(sentences, tags), regions.padded([with_boxes(...), ...])
    mask = torch.cat([text.pop("attention_mask"), real], dim=1)
    model(**text, attention_mask=mask, img_feats=seen, labels=labels)
    """

    def __init__(self, config: OscarConfig) -> None:
        super().__init__()
        self.config, self.bert = config, BertImgModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        width, hidden = config.hidden_size, config.hidden_size * config.cls_hidden_scale
        self.classifier = (
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, config.num_labels))
            if config.classifier == "mlp"
            else nn.Linear(width, config.num_labels)
        )
        normal_(self, config.initializer_range)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        token_type_ids: Int[Tensor, "batch length"] | None = None,
        attention_mask: Tensor | Mask | None = None,
        labels: Tensor | None = None,
        position_ids: Int[Tensor, "*batch length"] | None = None,
        img_feats: Float[Tensor, "batch regions feature_dim"] | None = None,
    ) -> ClassifierOutput:
        """Inputs as ``BertImgModel``'s. labels: for one class the numbers to regress; with config.loss_type "bce" the truth of
        every class and with "kl" its share, (batch, labels); else (batch,) classes."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids, img_feats, position_ids)
        logits = self.classifier(self.dropout(self.bert.pooled(hidden)))
        return ClassifierOutput(logits, None if labels is None else self._loss(logits, labels))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.loss_type
        if logits.shape[1] == 1:
            return functional.mse_loss(logits[:, 0], labels.view_as(logits[:, 0]).to(logits.dtype))
        if kind not in ("bce", "kl"):
            return cross_entropy(logits, labels)
        if labels.shape != logits.shape:
            raise ValueError(f"labels: expected {tuple(logits.shape)} for loss_type {kind!r}; got {tuple(labels.shape)}")
        if kind == "kl":
            return functional.kl_div(logits.log_softmax(dim=-1), labels, reduction="batchmean")
        return functional.binary_cross_entropy_with_logits(logits, labels) * labels.shape[1]


class BertForImageCaptioning(nn.Module):
    """Scores of every token at the masked places of a caption, each predicted where it stands, from what stands before it, the
    tags and the regions (``caption_mask``). ``headwise.models.oscar.caption`` writes with it, mask by mask."""

    def __init__(self, config: OscarConfig) -> None:
        super().__init__()
        self.config, self.bert = config, BertImgModel(config)
        self.head, self.loss = PredictionHead(config, config.tie_weights), CaptionLoss(config)
        normal_(self, config.initializer_range)
        self.bert.embedding.weight.requires_grad = not config.freeze_embedding

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        img_feats: Float[Tensor, "batch regions feature_dim"] | None = None,
        attention_mask: Tensor | Mask | None = None,
        masked_pos: Tensor | None = None,
        masked_ids: Int[Tensor, "batch masks"] | None = None,
        token_type_ids: Int[Tensor, "batch length"] | None = None,
        position_ids: Int[Tensor, "*batch length"] | None = None,
    ) -> CaptionOutput:
        """Inputs as ``BertImgModel``'s. masked_pos (batch, at most length): 1 = masked; masked_ids: the true tokens there, in
        their order, 0 where a row has fewer than others. Without the two, logits of the whole text. Raises ValueError where
        they do not belong together."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids, img_feats, position_ids)[:, : input_ids.shape[1]]
        if masked_pos is None or masked_ids is None:
            return CaptionOutput(self.head(hidden, self.bert.embedding))
        check_masks(masked_pos, masked_ids, hidden)
        # The places of a row's masks, in their order: a fixed number of them, so that one graph serves every batch.
        first = masked_pos.bool().int().argsort(dim=1, descending=True, stable=True)[:, : masked_ids.shape[1]]
        logits = self.head(hidden.gather(1, first[..., None].expand(-1, -1, hidden.shape[-1])), self.bert.embedding)
        return CaptionOutput(logits, self.loss(logits, masked_ids))


class BertImgForPreTraining(nn.Module):
    """Scores of every token at every place, and whether text and tags belong together, from the first token."""

    def __init__(self, config: OscarConfig) -> None:
        super().__init__()
        self.config, self.bert, self.head = config, BertImgModel(config), PredictionHead(config, tied=True)
        self.seq_relationship = nn.Linear(config.hidden_size, config.num_contrast_classes)
        normal_(self, config.initializer_range)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        token_type_ids: Int[Tensor, "batch length"] | None = None,
        attention_mask: Tensor | Mask | None = None,
        masked_lm_labels: Int[Tensor, "batch rows"] | None = None,
        next_sentence_label: Int[Tensor, " batch"] | None = None,
        position_ids: Int[Tensor, "*batch length"] | None = None,
        img_feats: Float[Tensor, "batch regions feature_dim"] | None = None,
    ) -> PreTrainingOutput:
        """Inputs as ``BertImgModel``'s. masked_lm_labels (batch, length + regions): the true tokens, -1 where none is asked
        for; next_sentence_label: 0 = they belong together. loss: the sum of the two cross-entropies."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids, img_feats, position_ids)
        tokens = self.head(hidden, self.bert.embedding)
        together = self.seq_relationship(self.bert.pooled(hidden))
        if masked_lm_labels is None or next_sentence_label is None:
            return PreTrainingOutput(tokens, together)
        loss = sum(cross_entropy(x, y, ignored=-1) for x, y in ((tokens, masked_lm_labels), (together, next_sentence_label)))
        return PreTrainingOutput(tokens, together, loss)  # type: ignore[arg-type]
