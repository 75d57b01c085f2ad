"""TimeSformer (Bertasius et al. 2021): an encoder reads the patches of a film, over time and over space by turns."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.attention.module import MultiHeadAttention
from headwise.blocks.layers import DropPath, Layer, Stack, normal_
from headwise.models import vision
from headwise.models.interface import ClassifierOutput, check_pictures, classified
from headwise.models.timesformer.config import TimesformerConfig

Tokens = Float[Tensor, "batch length embed_dim"]  # the class token; then patch by patch its frames


class DividedLayer(nn.Module):
    """Divided space-time attention: time, space and feed-forward, each within its residual.

    x_pt <- x_pt + W temporal_attention(norm x)_pt + b      over the frames t of every patch p; the class token takes no part
    x_pt <- x_pt + spatial_attention(norm [c, x_t])_pt      over the patches p of every frame t, and a copy of the class token
    c    <- c + what its copies got, the mean over t
    x    <- x + feed_forward(norm x)

    Both keep their axes apart, in records too: temporal_attention is (batch, patches, heads, frames, frames), spatial_attention
    (batch, frames, heads, 1 + patches, 1 + patches).
    """

    spatial_attention: MultiHeadAttention
    feed_forward: nn.Module
    residuals: nn.ModuleList

    def __init__(self, layer: Layer, temporal_norm: nn.Module, temporal_attention: MultiHeadAttention) -> None:
        super().__init__()
        self.temporal_norm, self.temporal_attention = temporal_norm, temporal_attention
        self.temporal_dense = nn.Linear(temporal_attention.embed_dim, temporal_attention.embed_dim)
        self.spatial_attention, self.feed_forward, self.residuals = layer.self_attention, layer.feed_forward, layer.residuals

    def forward(self, x: Tokens, frames: int) -> Tokens:
        space: Any = self.residuals[0]
        token, patches = x[:, :1], x[:, 1:].unflatten(1, (-1, frames))
        patches = patches + self.temporal_dense(space.dropout(self.temporal_attention(self.temporal_norm(patches))))
        copies = token[:, None].expand(-1, frames, -1, -1)
        every = torch.cat([copies, patches.transpose(1, 2)], dim=2)  # (batch, frames, 1 + patches, embed_dim)
        seen = space.dropout(self.spatial_attention(space.norm(every)))
        patches = patches + seen[:, :, 1:].transpose(1, 2)
        x = torch.cat([token + seen[:, :, 0].mean(dim=1, keepdim=True), patches.flatten(1, 2)], dim=1)
        return self.residuals[1](x, self.feed_forward)


class TimesformerForVideoClassification(nn.Module):
    """x = [class token, W patch + b] + P[patch], dropout, + T[frame] but for the class token, dropout; layers, a norm;
    logits = W_c x_0 + b_c.

    Joint attention is over all patches of all frames at once; "space_only" reads each frame alone, and the mean over frames is
    classified (transformers leaves that mean to its callers).
    """

    def __init__(self, config: TimesformerConfig) -> None:
        super().__init__()
        self.config, size = config, config.hidden_size
        self.patches = vision.Patches(config.num_channels, size, config.patch)
        rows, columns = config.grid
        self.class_token, self.position_embedding = vision.learned(config, 1, 1), vision.learned(config, 1, 1 + rows * columns)
        timeless = config.attention_type == "space_only"
        self.time_embedding = None if timeless else nn.Parameter(torch.zeros(1, config.num_frames, size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        layers = (self._layer(i) for i in range(config.num_hidden_layers))
        self.encoder = Stack(layers, vision.norm(config))
        self.classifier = nn.Linear(size, config.num_labels)
        normal_(self, config.initializer_range)

    def _layer(self, number: int) -> nn.Module:
        config, bias = self.config, self.config.qkv_bias or "out_proj"
        drop = nn.Sequential(nn.Dropout(config.hidden_dropout_prob), DropPath(config.drop_path(number)))
        layer = vision.layer(config, bias, drop, config.hidden_dropout_prob)
        if config.attention_type == "divided_space_time":
            return DividedLayer(layer, vision.norm(config), vision.attention(config, bias))
        return layer

    def forward(
        self, pixel_values: Float[Tensor, "batch frames channels height width"], labels: Tensor | None = None
    ) -> ClassifierOutput:
        """Scores of every class. labels: (batch,) classes, (batch, labels) of 0.0 and 1.0, or the numbers to regress.

        Films of other lengths or sizes than the config's are read too: the tables of positions are resized (nearest) to them.
        """
        check_pictures(pixel_values, self.config.num_channels, self.config.patch, films=True)
        frames, divided = pixel_values.shape[1], self.config.attention_type == "divided_space_time"
        x = self._embed(pixel_values)
        for layer in self.encoder.layers:
            x = layer(x, frames) if divided else layer(x)
        if self.time_embedding is None:
            x = x.unflatten(0, (-1, frames)).mean(dim=1)
        return classified(self.classifier(self.encoder.norm(x)[:, 0]), labels, self.config.problem_type)

    def _embed(self, films: Tensor) -> Tokens:
        """What the first layer reads; without time every frame is a sequence of its own, (batch * frames, 1 + patches, .)."""
        config, (batch, frames), (height, width) = self.config, films.shape[:2], films.shape[-2:]
        patches = self.patches(films.flatten(0, 1))
        positions = vision.resized(self.position_embedding[:, 1:], config.grid, config.grid_of(height, width), "nearest")
        x = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        x = self.dropout(x + torch.cat([self.position_embedding[:, :1], positions], dim=1))
        if self.time_embedding is None:
            return x
        times = vision.resized(self.time_embedding, (self.time_embedding.shape[1], 1), (frames, 1), "nearest")
        patches = x[:, 1:].unflatten(0, (batch, frames)).transpose(1, 2).flatten(1, 2)  # patch by patch its frames
        patches = self.dropout(patches + times.repeat(1, positions.shape[1], 1))
        # The token's copies differ by their dropout alone, and as published the first of them all are taken.
        return torch.cat([x[:batch, :1], patches], dim=1)
