"""VideoMAE (Tong et al. 2022): an encoder reads a film in patches of space and time, all of them together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.attention.positions import sinusoids
from headwise.blocks.layers import Stack, normal_
from headwise.models.interface import ClassifierOutput, check_pictures, classified
from headwise.models.videomae.config import VideoMAEConfig
from headwise.models.vision import Patches, layer, norm


class VideoMAEForVideoClassification(nn.Module):
    """x = W patch + b + sinusoid(position), first frames first; pre-norm layers; logits = W_c LayerNorm(mean x) + b_c, or,
    without use_mean_pooling, W_c LayerNorm(x)_0 + b_c."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = Patches(config.num_channels, config.hidden_size, (config.tubelet_size, *config.patch))
        biased = ("q_proj", "v_proj", "out_proj") if config.qv_bias else "out_proj"
        layers = (layer(config, biased) for _ in range(config.num_hidden_layers))
        self.encoder = Stack(layers, None if config.use_mean_pooling else norm(config))
        self.norm = nn.LayerNorm(config.hidden_size) if config.use_mean_pooling else None
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        normal_(self, config.initializer_range)

    def forward(
        self, pixel_values: Float[Tensor, "batch frames channels height width"], labels: Tensor | None = None
    ) -> ClassifierOutput:
        """Scores of every class. labels: (batch,) classes, (batch, labels) of 0.0 and 1.0, or the numbers to regress. Raises
        ValueError where the films have not the size of the config."""
        config = self.config
        check_pictures(pixel_values, config.num_channels, films=True)
        wanted = (config.num_frames, config.num_channels, *config.image)
        if pixel_values.shape[1:] != wanted:
            got = tuple(pixel_values.shape[1:])
            raise ValueError(f"pixel_values: expected films of (frames, channels, height, width) = {wanted}; got {got}")
        patches = self.patches(pixel_values.transpose(1, 2))
        positions = sinusoids(torch.arange(patches.shape[1], device=patches.device), config.hidden_size, torch.float64)
        x = self.encoder(patches + positions.to(patches.dtype), None)
        pooled = x[:, 0] if self.norm is None else self.norm(x.mean(dim=1))
        return classified(self.classifier(pooled), labels, config.problem_type)
