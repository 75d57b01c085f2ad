"""YOLOS (Fang et al. 2021): You Only Look at One Sequence. Detection by a ViT, with tokens to be objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.blocks.layers import normal_
from headwise.models.detection import MLP, DetectionOutput, set_loss
from headwise.models.interface import check_pictures
from headwise.models.vision import Patches, Size, encoder, learned, resized
from headwise.models.yolos.config import YolosConfig


class YolosForObjectDetection(nn.Module):
    """x = [class token, W patch + b, detection tokens] + P[position], dropout; pre-norm layers, a norm.

    Layer i is followed by x <- x + P_i[position], except the last, where the config has use_mid_position_embeddings. Every
    detection token in the end is a query: logits = MLP(x_q), box = sigmoid(MLP'(x_q)). The patches' part of every P is resized
    (bicubic) to the picture's own grid, so that pictures may have any size. Those of a batch have one: what pads a smaller one
    is seen, for there is no mask.
    """

    def __init__(self, config: YolosConfig) -> None:
        super().__init__()
        self.config = config
        width, tokens, (rows, columns) = config.hidden_size, config.num_detection_tokens, config.grid
        length = 1 + rows * columns + tokens
        self.patches = Patches(config.num_channels, width, config.patch)
        # Random, as its authors begin: the reference's zeros would make every detection token the same, and keep it so.
        self.class_token, self.detection_tokens = learned(config, 1, 1), learned(config, 1, tokens)
        self.position_embedding = learned(config, 1, length)
        mid = config.use_mid_position_embeddings
        self.mid_position_embedding = learned(config, config.num_hidden_layers - 1, 1, length) if mid else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = encoder(config, bias=config.qkv_bias or "out_proj")
        self.class_labels_classifier, self.bbox_predictor = MLP(width, config.num_labels + 1), MLP(width, 4)
        normal_(self, config.initializer_range)

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        labels: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> DetectionOutput:
        """A class and a box for every detection token.

        labels: a mapping per picture, "class_labels" (objects,) and "boxes" (objects, 4): centre x and y, width, height, as
        parts of the picture without what pads it, as the authors count them. loss: that of the matched set
        (``detection.set_loss``).
        """
        check_pictures(pixel_values, self.config.num_channels, self.config.patch)
        patches = self.patches(pixel_values)
        tokens = [table.expand(patches.shape[0], -1, -1) for table in (self.class_token, self.detection_tokens)]
        grid = self.config.grid_of(pixel_values.shape[-2], pixel_values.shape[-1])
        x = torch.cat([tokens[0], patches, tokens[1]], dim=1) + self._positions(self.position_embedding, grid)
        x = self.dropout(x)
        between = [] if self.mid_position_embedding is None else list(self.mid_position_embedding)
        for i, layer in enumerate(self.encoder.layers):
            x = layer(x)
            if i < len(between):
                x = x + self._positions(between[i], grid)
        x = self.encoder.norm(x)
        found = x[:, -self.config.num_detection_tokens :]
        logits, boxes = self.class_labels_classifier(found), self.bbox_predictor(found).sigmoid()
        loss, parts = (None, None) if labels is None else set_loss(self.config, logits, boxes, labels)
        return DetectionOutput(logits, boxes, x, loss=loss, loss_dict=parts)

    def _positions(self, table: Float[Tensor, "1 length embed_dim"], grid: Size) -> Float[Tensor, "1 wanted embed_dim"]:
        """A table of positions for a picture of so many rows and columns of patches."""
        first, patches, last = table.tensor_split((1, table.shape[1] - self.config.num_detection_tokens), dim=1)
        return torch.cat([first, resized(patches, self.config.grid, grid, "bicubic"), last], dim=1)
