"""DETR (Carion et al. 2020): detection as the prediction of a set, by a Transformer that reads a picture's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import tau

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention import masks
from headwise.attention.masks import Mask
from headwise.attention.positions import sinusoids
from headwise.blocks.layers import Hidden, Layer, PostNorm, Stack
from headwise.models import fairseq
from headwise.models.detection import MLP, DetectionOutput, set_loss
from headwise.models.detr.config import DetrConfig
from headwise.models.detr.resnet import ResNet

MOST = 50  # rows and columns that have a learned position


class DetrLayer(Layer):
    """A layer whose positions are added where attention looks, to queries and keys, in every layer anew; values have none."""

    def forward(  # type: ignore[override]
        self,
        x: Hidden,
        position: Hidden,
        mask: Mask | None,
        memory: Float[Tensor, "batch memory_len embed_dim"] | None = None,
        memory_position: Float[Tensor, "batch memory_len embed_dim"] | None = None,
    ) -> Hidden:
        """mask: which of the picture's places are real: keys of self-attention or, with a memory, of the other."""
        first, *between, last = self.residuals
        own = mask if memory is None else None
        x = first(x, lambda x: self.self_attention(x + position, value=x, mask=own))
        for residual in between:
            place = memory + memory_position  # type: ignore[operator]
            x = residual(x, lambda x, key=place: self.cross_attention(x + position, key, memory, mask=mask))  # type: ignore[misc]
        return last(x, self.feed_forward)


class SinePositions(nn.Module):
    """A place's row and column, counted among the real ones of its picture as a part of 2 pi, y before x:

    y = 2 pi (real rows down to here) / (all real rows + 1e-6);  channels 2m, 2m + 1: sin, cos of y 10000^(-2m / (d / 2)).
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.width = embed_dim // 2

    def forward(self, real: Bool[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows columns embed_dim"]:
        y, x = (real.float().cumsum(axis) for axis in (1, 2))
        y, x = y / (y[:, -1:] + 1e-6) * tau, x / (x[:, :, -1:] + 1e-6) * tau
        return torch.cat([sinusoids(y, self.width), sinusoids(x, self.width)], dim=-1)


class LearnedPositions(nn.Module):
    """A vector for the column beside a vector for the row."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.row, self.column = nn.Embedding(MOST, embed_dim // 2), nn.Embedding(MOST, embed_dim // 2)
        for table in (self.row, self.column):
            nn.init.uniform_(table.weight)

    def forward(self, real: Bool[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows columns embed_dim"]:
        _, rows, columns = real.shape
        if max(rows, columns) > MOST:
            raise ValueError(f"pixel_values: {rows} x {columns} places of features are more than this model's {MOST} x {MOST}")
        row, column = self.row.weight[:rows, None].expand(-1, columns, -1), self.column.weight[:columns].expand(rows, -1, -1)
        return torch.cat([column, row], dim=-1).expand(*real.shape, -1)


class DetrForObjectDetection(nn.Module):
    """picture -> ResNet -> W f + b at every place -> encoder -> memory;  queries, memory -> decoder -> a class and a box each.

    Post-norm layers. The encoder's input goes through dropout; the decoder's is zero: what tells queries apart is their learned
    position alone. After the decoder a norm; logits = W_c x + b_c, box = sigmoid(MLP(x)).
    """

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.config, width = config, config.d_model
        self.backbone = ResNet(config.resnet, config.dilated)
        self.input_projection = nn.Conv2d(config.resnet.hidden_sizes[-1], width, 1)
        self.position = (SinePositions if config.position_embedding_type == "sine" else LearnedPositions)(width)
        self.query_position = nn.Embedding(config.num_queries, width)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Stack(fairseq.layers(config, "encoder", PostNorm, DetrLayer))
        self.decoder = Stack(fairseq.layers(config, "decoder", PostNorm, DetrLayer), nn.LayerNorm(width))
        self.class_labels_classifier, self.bbox_predictor = nn.Linear(width, config.num_labels + 1), MLP(width, 4)
        # As its authors begin (and queries from N(0, 1), torch's choice). The reference has N(0, 0.02^2) everywhere, with which
        # queries are all but one, and find one object together.
        for parameter in [*self.encoder.parameters(), *self.decoder.parameters()]:
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        pixel_mask: Tensor | None = None,
        labels: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> DetectionOutput:
        """A class and a box for every query.

        pixel_mask (batch, height, width): true or 1 = a real pixel, 0 = what pads a smaller picture, right and below. labels: a
        mapping per picture, "class_labels" (objects,) and "boxes" (objects, 4): centre x and y, width, height, as parts of the
        picture without its padding. loss: that of the matched set (``detection.set_loss``).
        """
        features = self.input_projection(self.backbone(pixel_values))
        real = self._real(pixel_mask, pixel_values, features)
        position = self.position(real).to(features.dtype).flatten(1, 2)
        mask = None if pixel_mask is None else masks.padding(real.flatten(1))
        memory = self.dropout(features.flatten(2).transpose(1, 2))
        for layer in self.encoder.layers:
            memory = layer(memory, position, mask)
        queries = self.query_position.weight.expand(memory.shape[0], -1, -1)
        x, between = torch.zeros_like(queries), []
        for layer in self.decoder.layers:
            x = layer(x, queries, mask, memory, position)
            if self.config.auxiliary_loss:
                # As the reference has it: the next layer, too, goes on from the norm, and the last state is normed twice.
                x = self.decoder.norm(x)
                between.append(x)
        x = self.decoder.norm(x)
        logits, boxes = self._predict(x)
        loss, parts = None, None
        if labels is not None:
            loss, parts = set_loss(self.config, logits, boxes, labels, [self._predict(state) for state in between[:-1]])
        return DetectionOutput(logits, boxes, x, memory, loss, parts)

    def _predict(self, x: Hidden) -> tuple[Tensor, Tensor]:
        return self.class_labels_classifier(x), self.bbox_predictor(x).sigmoid()

    def _real(
        self, pixel_mask: Tensor | None, pixels: Tensor, features: Float[Tensor, "batch embed_dim rows columns"]
    ) -> Bool[Tensor, "batch rows columns"]:
        """Which places of the features are real: as the nearest of their pixels."""
        shape = (pixels.shape[0], *features.shape[2:])
        if pixel_mask is None:
            return torch.ones(shape, dtype=torch.bool, device=pixels.device)
        wanted = (pixels.shape[0], *pixels.shape[2:])
        if pixel_mask.shape != wanted:
            raise ValueError(f"pixel_mask: expected {wanted}, 1 = a real pixel; got {tuple(pixel_mask.shape)}")
        return functional.interpolate(pixel_mask[:, None].float(), size=shape[1:])[:, 0].bool()
