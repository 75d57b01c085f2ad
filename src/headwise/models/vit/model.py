"""ViT (Dosovitskiy et al. 2021): a picture is worth 16 x 16 words; an encoder reads its patches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.blocks.layers import normal_
from headwise.models.interface import ClassifierOutput, check_pictures, classified
from headwise.models.vision import Patches, encoder, learned, resized
from headwise.models.vit.config import ViTConfig


class ViTForImageClassification(nn.Module):
    """x = [class token, W patch + b] + P[position], dropout; pre-norm layers, a norm; logits = W_c x_0 + b_c."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = Patches(config.num_channels, config.hidden_size, config.patch)
        rows, columns = config.grid
        self.class_token, self.position_embedding = learned(config, 1, 1), learned(config, 1, 1 + rows * columns)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = encoder(config, bias=config.qkv_bias or "out_proj")
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        normal_(self, config.initializer_range)

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        interpolate_pos_encoding: bool = False,
        labels: Tensor | None = None,
    ) -> ClassifierOutput:
        """Scores of every class. labels: (batch,) classes, (batch, labels) of 0.0 and 1.0, or the numbers to regress.

        interpolate_pos_encoding: takes pictures of any size, with the table of positions resized (bicubic) to their patches;
        otherwise raises ValueError where they have not the size of the config.
        """
        check_pictures(pixel_values, self.config.num_channels, self.config.patch)
        positions = self._positions(pixel_values.shape[-2], pixel_values.shape[-1], interpolate_pos_encoding)
        patches = self.patches(pixel_values)
        x = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        x = self.encoder(self.dropout(x + positions), None)
        return classified(self.classifier(x[:, 0]), labels, self.config.problem_type)

    def _positions(self, height: int, width: int, resize: bool) -> Float[Tensor, "1 length embed_dim"]:
        config = self.config
        if (height, width) == config.image:
            return self.position_embedding
        if not resize:
            raise ValueError(
                f"pixel_values: expected pictures of {config.image} pixels; got {(height, width)} (resize them, or, by "
                "interpolate_pos_encoding=True, the table of positions)"
            )
        patches = resized(self.position_embedding[:, 1:], config.grid, config.grid_of(height, width), "bicubic")
        return torch.cat([self.position_embedding[:, :1], patches], dim=1)
