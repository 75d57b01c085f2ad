"""Pictures and films as sequences: patches, which an encoder reads as if they were words. What such models share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.module import MultiHeadAttention
from headwise.blocks.feed_forward import FeedForward, activation
from headwise.blocks.layers import Layer, PreNorm, Stack
from headwise.models.checkpoint.config import Labelled

Size = tuple[int, int]  # height, width


@dataclass(frozen=True, kw_only=True)
class VisionConfig(Labelled):
    """What the config.json of every such model has; defaults are those of the base models.

    image_size, patch_size: in pixels, one number or [height, width].
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int | list[int] = 224
    patch_size: int | list[int] = 16
    num_channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_size", "patch_size"):
            size = getattr(self, name)
            if not isinstance(size, int) and len(size) != 2:
                raise ValueError(f"{name}: expected one number or [height, width]; got {size}")
        if 0 in self.grid:
            raise ValueError(f"image_size: expected at least one patch of {self.patch}; got {self.image}")

    @property
    def image(self) -> Size:
        """Height and width of a picture, in pixels."""
        return _pair(self.image_size)

    @property
    def patch(self) -> Size:
        """Height and width of a patch, in pixels."""
        return _pair(self.patch_size)

    @property
    def grid(self) -> Size:
        """Rows and columns of patches in a picture."""
        return self.grid_of(*self.image)

    def grid_of(self, height: int, width: int) -> Size:
        """Rows and columns of patches in a picture of that size; what is left of a patch at the edges is not seen."""
        return height // self.patch[0], width // self.patch[1]


def _pair(size: int | list[int]) -> Size:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class Patches(nn.Module):
    """W p + b for every patch p, row by row: a convolution whose stride is its size. A film's have a depth in frames. Pictures
    come in any precision: what follows has the weights'."""

    def __init__(self, num_channels: int, embed_dim: int, size: tuple[int, ...]) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
        self.projection = convolution(num_channels, embed_dim, size, size)

    def forward(self, pixels: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch patches embed_dim"]:
        return self.projection(pixels.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)


def learned(config: VisionConfig, *shape: int) -> nn.Parameter:
    """What is learned as it stands (tokens, tables of positions), at first N(0, initializer_range^2)."""
    return nn.Parameter(nn.init.normal_(torch.empty(*shape, config.hidden_size), std=config.initializer_range))


def resized(
    table: Float[Tensor, "*depth cells embed_dim"], grid: Size, wanted: Size, mode: Literal["bicubic", "nearest"]
) -> Float[Tensor, "*depth wanted embed_dim"]:
    """A table of positions, row by row over a grid, for another grid: as a picture that is resized."""
    if grid == wanted:
        return table
    pictures = table.flatten(0, -3).unflatten(1, grid).movedim(-1, 1)
    how = {"align_corners": False} if mode == "bicubic" else {}
    pictures = functional.interpolate(pictures, size=wanted, mode=mode, **how)
    return pictures.flatten(2).transpose(1, 2).reshape(*table.shape[:-2], -1, table.shape[-1])


def norm(config: VisionConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def attention(config: VisionConfig, bias: bool | Iterable[str]) -> MultiHeadAttention:
    return MultiHeadAttention(
        config.hidden_size, config.num_attention_heads, bias=bias, dropout=config.attention_probs_dropout_prob
    )


def layer(
    config: VisionConfig, bias: bool | Iterable[str], drop: nn.Module | None = None, hidden_dropout: float = 0.0
) -> Layer:
    """A pre-norm layer. drop: what drops parts of a sublayer's output, if not dropout; hidden_dropout: inside feed-forward."""
    return Layer(
        lambda: PreNorm(norm(config), config.hidden_dropout_prob if drop is None else drop),
        self_attention=attention(config, bias),
        feed_forward=FeedForward(config.hidden_size, config.intermediate_size, activation(config.hidden_act), hidden_dropout),
    )


def encoder(config: VisionConfig, bias: bool | Iterable[str]) -> Stack:
    """Pre-norm layers, and a norm at the end."""
    return Stack((layer(config, bias) for _ in range(config.num_hidden_layers)), norm(config))


def published_names(body: str) -> dict[str, str]:
    """The rows of a key table that all have in common, under the name of the body."""
    layer = "encoder.layers.{i}"
    return {
        f"{body}.embeddings.patch_embeddings.projection.{{leaf}}": "patches.projection.{leaf}",
        f"{body}.encoder.layer.{{i}}.layernorm_before.{{leaf}}": f"{layer}.residuals.0.norm.{{leaf}}",
        f"{body}.encoder.layer.{{i}}.attention.output.dense.{{leaf}}": f"{layer}.self_attention.out_proj.{{leaf}}",
        f"{body}.encoder.layer.{{i}}.layernorm_after.{{leaf}}": f"{layer}.residuals.1.norm.{{leaf}}",
        f"{body}.encoder.layer.{{i}}.intermediate.dense.{{leaf}}": f"{layer}.feed_forward.expand.{{leaf}}",
        f"{body}.encoder.layer.{{i}}.output.dense.{{leaf}}": f"{layer}.feed_forward.contract.{{leaf}}",
        f"{body}.layernorm.{{leaf}}": "encoder.norm.{leaf}",
        "classifier.{leaf}": "classifier.{leaf}",
    }
