"""Pictures as ImageGPT's words: one of some hundred colours for each pixel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from headwise.models.inputs.processors import ImageProcessor, Number, Size, square
from headwise.models.inputs.rgb import Picture

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class ColourTokens(ImageProcessor):
    """ImageGPT's pictures: {"input_ids": int64 (batch, height width)}, row by row the number of each pixel's nearest cluster.

    ``clusters`` (n, 3) are colours as values, after rescale and normalize: -1 ... 1. Nearest by the squared distance, the first
    of several as near. Without do_color_quantize, "pixel_values" as the others.
    """

    size: Size = field(default_factory=lambda: square(256))
    do_color_quantize: bool = True
    clusters: Sequence[Sequence[Number]] = field(default=(), repr=False)

    published: ClassVar[str] = "ImageGPTImageProcessor"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.image_mean) != 3:
            raise ValueError(f"colours need 3 means, got {self.image_mean}")
        several = isinstance(self.clusters, list | tuple)
        if not several or not all(isinstance(colour, list | tuple) and len(colour) == 3 for colour in self.clusters):
            raise ValueError("clusters is a list of colours with 3 numbers each")
        object.__setattr__(self, "clusters", tuple(tuple(map(float, colour)) for colour in self.clusters))
        if self.do_color_quantize and not self.clusters:
            raise ValueError("do_color_quantize needs clusters, the colours there are")

    def __call__(self, pictures: Picture | Iterable[Picture]) -> dict[str, Tensor]:
        """A batch of pictures, or of one."""
        batch = super().__call__(pictures)
        if not self.do_color_quantize:
            return batch
        colours = np.array(self.clusters)
        ids = [self._nearest(values.numpy(), colours) for values in batch["pixel_values"]]
        return {"input_ids": torch.from_numpy(np.stack(ids))}

    @staticmethod
    def _nearest(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2 in the reference's order and precision, for the same cluster where two are as near.
        pixels = values.transpose(1, 2, 0).reshape(-1, 3)
        length = np.square(pixels).sum(axis=1)[:, None]
        return (length - 2 * (pixels @ colours.T) + np.square(colours).sum(axis=1)).argmin(axis=1)

    def pictures(self, tokens: Int64[Tensor, "batch pixels"] | Sequence[Sequence[int]]) -> list[Image.Image]:
        """The pictures that tokens stand for, size["height"] x size["width"] each."""
        from PIL import Image

        tokens, shape = torch.as_tensor(tokens), self.size.values()
        fits = "height" in self.size and tokens.ndim == 2 and not tokens.is_floating_point()
        if not fits or tokens.shape[1] != math.prod(shape):
            raise ValueError(f"expected tokens (batch, height width) for {self.size}, got {tuple(tokens.shape)}")
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(self.clusters):
            raise ValueError(f"tokens of colours are 0 to {len(self.clusters) - 1}; the start token is none")
        colours = np.array(self.clusters)
        if self.do_normalize:
            colours = colours * np.array(self.image_std) + np.array(self.image_mean)
        if self.do_rescale:
            colours = colours / self.rescale_factor
        pixels = colours.round().clip(0, 255).astype(np.uint8)[tokens.cpu().numpy()]
        return [Image.fromarray(picture.reshape(self.size["height"], self.size["width"], 3)) for picture in pixels]
