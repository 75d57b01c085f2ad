"""ResNet (He et al. 2016) with batch norms that are frozen, as DETR reads pictures with it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from headwise.blocks.feed_forward import Activation, activation
from headwise.models.detr.config import ResNetConfig
from headwise.models.interface import check_pictures


class FrozenBatchNorm(nn.Module):
    """weight (x - running_mean) / sqrt(running_var + 1e-5) + bias, of every channel: four stored vectors, none of which learns
    or changes. Detectors train with too few pictures at once for the statistics of a batch."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class Convolution(nn.Module):
    """norm(W * x): a convolution without bias, a frozen norm."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = size // 2 * dilation
        self.convolution = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)
        self.norm = FrozenBatchNorm(outputs)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        return self.norm(self.convolution(x))


class Block(nn.Module):
    """activation(convolutions(x) + shortcut(x)), relu between the convolutions.

    shortcut: x itself, or a convolution of 1 x 1 where a block changes the width or the resolution.
    """

    def __init__(
        self, config: ResNetConfig, inputs: int, outputs: int, stride: int = 1, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        first, second = dilations  # of the convolutions of 3 x 3
        if config.layer_type == "basic":
            convolutions = [
                Convolution(inputs, outputs, 3, stride, first),
                Convolution(outputs, outputs, 3, 1, second),
            ]
        else:
            inner, early = outputs // 4, config.downsample_in_bottleneck
            convolutions = [
                Convolution(inputs, inner, 1, stride if early else 1),
                Convolution(inner, inner, 3, 1 if early else stride, first),
                Convolution(inner, outputs, 1),
            ]
        self.convolutions = nn.ModuleList(convolutions)
        changes = inputs != outputs or stride != 1
        self.shortcut = Convolution(inputs, outputs, 1, stride) if changes else nn.Identity()
        self.activation: Activation = activation(config.hidden_act)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        *between, last = self.convolutions
        y = x
        for convolution in between:
            y = convolution(y).relu()
        return self.activation(last(y) + self.shortcut(x))


class ResNet(nn.Module):
    """A convolution of 7 x 7 and the largest of every 3 x 3, each of which halves the picture; stages of blocks, each of which
    but the first halves it again: one row of features for every 32 x 32 pixels.

    dilated: the last stage keeps the resolution and spreads its kernels instead (dilation 2, from its second 3 x 3 on), so that
    at every second row and column it sees what it would have seen.
    """

    def __init__(self, config: ResNetConfig, dilated: bool = False) -> None:
        super().__init__()
        self.channels = config.num_channels
        self.stem = Convolution(config.num_channels, config.embedding_size, 7, 2)
        self.activation: Activation = activation(config.hidden_act)
        stages, width, last = [], config.embedding_size, len(config.depths) - 1
        for stage, (outputs, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
            wide = dilated and stage == last
            stride = 2 if (stage or config.downsample_in_first_stage) and not wide else 1
            spread = 2 if wide else 1
            blocks = [Block(config, width, outputs, stride, (1, spread))]
            blocks += [Block(config, outputs, outputs, 1, (spread, spread)) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            width = outputs
        self.stages = nn.ModuleList(stages)
        # As DETR was published, what is learned from ImageNet first is kept. (The reference, with its own ResNet, looks for
        # "stage.1" where the names say "stages.1", and so keeps everything as it is.)
        for frozen in (self.stem, self.stages[0]):
            frozen.requires_grad_(False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kernels from N(0, 2 / (outputs x size)) (He et al. 2015)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        check_pictures(pixels, self.channels)
        x = functional.max_pool2d(self.activation(self.stem(pixels.to(self.stem.convolution.weight.dtype))), 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
        return x
