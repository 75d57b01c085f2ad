"""From pictures to the values a model takes: see headwise.models.inputs.images."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from headwise.models.checkpoint.folder import write_json
from headwise.models.inputs.rgb import Picture, as_rgb, check_area, listed
from headwise.models.inputs.settings import Number

if TYPE_CHECKING:
    from PIL import Image

Size = Mapping[str, int]
HALF = (0.5, 0.5, 0.5)
SHORTEST: Size = {"shortest_edge": 224}
DETECTION: Size = {"shortest_edge": 800, "longest_edge": 1333}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def square(side: int) -> Size:
    return {"height": side, "width": side}


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """Pictures for a model: ``images([...])`` is {"pixel_values": float32 (batch, channels, height, width)}.

    The names are the field's (preprocessor_config.json), the values ViT's. ``resample`` is PIL's number: 0 nearest, 1 Lanczos,
    2 bilinear, 3 bicubic, 4 box, 5 Hamming. A centre crop larger than the picture puts black around it. ``do_pad`` fills with
    zeros, right and bottom, up to the largest of the batch or to pad_size.
    """

    do_resize: bool = True
    size: Size = field(default_factory=lambda: square(224))
    resample: int = 2
    do_center_crop: bool = False
    crop_size: Size | None = None
    do_rescale: bool = True
    rescale_factor: Number = 1 / 255
    do_normalize: bool = True
    image_mean: Sequence[Number] = HALF
    image_std: Sequence[Number] = HALF
    do_pad: bool = False
    pad_size: Size | None = None

    published: ClassVar[str] = "ViTImageProcessor"  # whose settings these are
    sizes: ClassVar[tuple[set[str], ...]] = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})

    def __post_init__(self) -> None:
        for name, allowed in (("size", self.sizes), ("crop_size", self.sizes[:1]), ("pad_size", self.sizes[:1])):
            if (sides := getattr(self, name)) is None and name != "size":
                continue
            if not isinstance(sides, Mapping) or set(sides) not in allowed or any(not _counts(side) for side in sides.values()):
                keys = " or ".join("{" + ", ".join(sorted(keys)) + "}" for keys in allowed)
                raise ValueError(f"{name} is {sides!r}; expected {keys}, in pixels")
            object.__setattr__(self, name, dict(sides))
        mean, std = self.image_mean, self.image_std
        both = isinstance(mean, list | tuple) and isinstance(std, list | tuple) and len(mean) == len(std)
        if not both or len(mean) not in (1, 3) or 0 in std:
            raise ValueError(
                f"expected 1 or 3 numbers each as image_mean and image_std, the latter not 0; got {mean} and {std}"
            )
        for number in (self.rescale_factor, *mean, *std):
            if not isinstance(number, Number) or not math.isfinite(number):
                raise ValueError(f"rescale_factor, image_mean and image_std are numbers, got {number!r}")
        object.__setattr__(self, "image_mean", tuple(mean))
        object.__setattr__(self, "image_std", tuple(std))
        for one in fields(self):
            if one.name.startswith("do_") and not isinstance(getattr(self, one.name), bool):
                raise ValueError(f"{one.name} is {getattr(self, one.name)!r}; expected True or False")
        if type(self.resample) is not int or self.resample not in range(6):
            raise ValueError(f"resample is {self.resample!r}; expected PIL's 0 to 5")
        if self.do_center_crop and self.crop_size is None:
            raise ValueError("do_center_crop needs a crop_size")

    def __call__(self, pictures: Picture | Iterable[Picture]) -> dict[str, Tensor]:
        """A batch of pictures, or of one. ValueError says which picture cannot be read, and how."""
        return {"pixel_values": self._stacked(self._each(listed(pictures)))}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes preprocessor_config.json, which transformers reads too, into the folder."""
        stated = {name: entry for name, entry in asdict(self).items() if entry is not None}
        rgb = {"do_convert_rgb": True} if len(self.image_mean) == 3 else {}
        write_json(Path(folder) / "preprocessor_config.json", {"image_processor_type": self.published} | rgb | stated)

    def _each(self, pictures: Sequence[Picture], name: str = "picture") -> list[np.ndarray]:
        """Every picture's values, (channels, height, width)."""
        if not pictures:
            raise ValueError("there are no pictures: a batch has at least one")
        table, batch = self._table(), list[np.ndarray]()
        for number, picture in enumerate(pictures):
            called = os.fspath(picture) if isinstance(picture, str | os.PathLike) else f"{name} {number}"
            rgb = as_rgb(picture, called)
            try:
                batch.append(self._values(rgb, table))
            except ValueError as error:
                raise ValueError(f"{called}: {error}") from None
        return batch

    def _table(self) -> np.ndarray:
        """What becomes of 0 ... 255, (channels, 256): there are no other pixels, so that each sum is done once."""
        values = np.tile(np.arange(256, dtype=np.float64), (len(self.image_mean), 1))
        if self.do_rescale:
            values *= self.rescale_factor
        table = values.astype(np.float32)
        if self.do_normalize:
            mean, std = (np.array(numbers, dtype=np.float32)[:, None] for numbers in (self.image_mean, self.image_std))
            table = (table - mean) / std
        return table

    def _values(self, picture: Image.Image, table: np.ndarray) -> np.ndarray:
        if len(table) == 1:
            picture = picture.convert("L")
        if self.do_resize:
            height, width = self._target(picture.height, picture.width)
            if not height or not width:
                raise ValueError(f"{picture.height} x {picture.width} would become {height} x {width}")
            check_area(height, width)
            picture = picture.resize((width, height), self.resample)
        if self.do_center_crop and self.crop_size:
            height, width = self.crop_size["height"], self.crop_size["width"]
            check_area(height, width)
            top, left = (picture.height - height) // 2, (picture.width - width) // 2  # below 0: outside, which is black
            picture = picture.crop((left, top, left + width, top + height))
        pixels = np.asarray(picture).reshape(picture.height, picture.width, len(table))
        return np.stack([table[channel][pixels[..., channel]] for channel in range(len(table))])

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """The resized height and width."""
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        return _in_proportion(height, width, self.size)

    def _stacked(self, batch: list[np.ndarray]) -> Tensor:
        shapes = {values.shape[-2:] for values in batch}
        if not self.do_pad and len(shapes) == 1:
            return torch.from_numpy(np.stack(batch))
        if not self.do_pad:
            raise ValueError(f"pictures of one batch need one size, got {sorted(shapes)} (height, width) and no do_pad")
        height, width = (max(sides) for sides in zip(*shapes, strict=True))
        if self.pad_size is not None:
            if self.pad_size["height"] < height or self.pad_size["width"] < width:
                raise ValueError(f"pictures of {height} x {width} are larger than pad_size, {self.pad_size}")
            height, width = self.pad_size["height"], self.pad_size["width"]
        check_area(height, width)
        padded = torch.zeros(len(batch), len(self.image_mean), height, width)
        for row, values in zip(padded, batch, strict=True):
            row[:, : values.shape[1], : values.shape[2]] = torch.from_numpy(values)
        return padded


def _counts(side: object) -> bool:
    return type(side) is int and side > 0


def _in_proportion(height: int, width: int, size: Size, keeps: bool = True) -> tuple[int, int]:
    """The shorter side as ``size`` says and the longer in proportion, rounded down. Where that exceeds longest_edge, the
    shorter side is the exact share, rounded, and the longer is reckoned from the unrounded one. keeps: a picture whose shorter
    side is right already stays as it is."""
    side, longest = size["shortest_edge"], size.get("longest_edge")
    short, long = sorted((height, width))
    exact: float = side
    if longest is not None and long / short * side > longest:
        exact = longest * short / long
        side = round(exact)
    other = long if keeps and short == side else int(exact * long / short)
    return (other, side) if width <= height else (side, other)


@dataclass(frozen=True, kw_only=True)
class DetrImages(ImageProcessor):
    """Whole pictures in proportion: "pixel_values", padded, and "pixel_mask" (batch, height, width), int64, 1 = picture."""

    size: Size = field(default_factory=lambda: DETECTION)
    image_mean: Sequence[Number] = IMAGENET[0]
    image_std: Sequence[Number] = IMAGENET[1]
    do_pad: bool = True

    published: ClassVar[str] = "DetrImageProcessor"
    sizes: ClassVar[tuple[set[str], ...]] = ({"height", "width"}, {"shortest_edge", "longest_edge"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.do_center_crop:
            raise ValueError("boxes are looked for in whole pictures: there is no do_center_crop")

    def __call__(self, pictures: Picture | Iterable[Picture]) -> dict[str, Tensor]:
        """A batch of pictures, or of one; without do_pad, all of one size and no mask."""
        batch = self._each(listed(pictures))
        values = self._stacked(batch)
        if not self.do_pad:
            return {"pixel_values": values}
        mask = torch.zeros(len(batch), *values.shape[-2:], dtype=torch.int64)
        for row, picture in zip(mask, batch, strict=True):
            row[: picture.shape[1], : picture.shape[2]] = 1
        return {"pixel_values": values, "pixel_mask": mask}


class YolosImages(DetrImages):
    """As DETR's, with sides in proportion cut to multiples of 16, and no mask: the model sees what is padded."""

    published: ClassVar[str] = "YolosImageProcessor"

    def __call__(self, pictures: Picture | Iterable[Picture]) -> dict[str, Tensor]:
        """A batch of pictures, or of one."""
        return {"pixel_values": super().__call__(pictures)["pixel_values"]}

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if "height" in self.size:
            return super()._target(height, width)
        # The reference asks first whether a picture is upright, and only then whether its size is right.
        target = _in_proportion(height, width, self.size, keeps=height <= width)
        return target[0] // 16 * 16, target[1] // 16 * 16


@dataclass(frozen=True, kw_only=True)
class Films(ImageProcessor):
    """Films of equally many frames: {"pixel_values": float32 (batch, frames, channels, height, width)}. VideoMAE's values."""

    size: Size = field(default_factory=lambda: SHORTEST)
    do_center_crop: bool = True
    crop_size: Size | None = field(default_factory=lambda: square(224))

    published: ClassVar[str] = "VideoMAEImageProcessor"

    def __call__(self, pictures: Picture | Iterable[Picture] | Iterable[Iterable[Picture]]) -> dict[str, Tensor]:
        """A batch of films, or of one. Which frames of a recording a model wants is the caller's to choose."""
        given = listed(pictures)
        several = given and (isinstance(given[0], list | tuple) or getattr(given[0], "ndim", 0) == 4)
        films = given if several else [given]
        batch = [self._each(listed(film), f"film {number}, frame") for number, film in enumerate(films)]
        if len({len(frames) for frames in batch}) != 1:
            raise ValueError(f"films of one batch need equally many frames, got {[len(frames) for frames in batch]}")
        return {"pixel_values": self._stacked([frame for frames in batch for frame in frames]).unflatten(0, (len(batch), -1))}
