"""What people hand in as a picture, as RGB."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import Tensor

if TYPE_CHECKING:  # PIL is imported where it is needed: whoever reads texts does not wait for it
    from PIL import Image

    Picture: TypeAlias = Image.Image | str | Path | np.ndarray | Tensor
else:
    Picture: TypeAlias = Any


def listed(pictures: Any) -> list[Any]:
    """The pictures of a batch, or the one that stands for a batch of one."""
    from PIL import Image

    if isinstance(pictures, np.ndarray | Tensor):
        return list(pictures) if pictures.ndim > 3 else [pictures]
    if isinstance(pictures, str | os.PathLike | Image.Image):
        return [pictures]
    if isinstance(pictures, bytes) or hasattr(pictures, "read") or not isinstance(pictures, Iterable):
        raise ValueError(f"expected pictures (PIL's, paths or uint8 arrays), got {type(pictures).__name__}")
    return list(pictures)


def as_rgb(picture: Picture, name: str) -> Image.Image:
    """A picture with its three colours; ``name`` is what an error calls it."""
    from PIL import Image, ImageOps

    if isinstance(picture, str | os.PathLike):
        try:
            with Image.open(picture) as image:
                check_area(image.height, image.width)
                return _colours(ImageOps.exif_transpose(image), on_white=False)
        except Exception as error:  # a damaged or hostile file can bring PIL to any of them
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ValueError(f"{name} cannot be read as a picture: {said}") from None
    if isinstance(picture, np.ndarray | Tensor):
        picture = _from_array(picture, name)
    if not isinstance(picture, Image.Image):
        raise ValueError(f"{name} is a {type(picture).__name__}; expected a PIL picture, a path or a uint8 array")
    if not picture.width or not picture.height:
        raise ValueError(f"{name} is empty: {picture.height} x {picture.width}")
    try:
        return _colours(picture, on_white=True)
    except Exception as error:  # PIL decodes late: this can be the first look into a file
        raise ValueError(f"{name} cannot be read: {str(error) or type(error).__name__}") from None


def check_area(height: int, width: int) -> None:
    """Refuses what would fill the memory, a few bytes of a file though it may be: more than PIL.Image.MAX_IMAGE_PIXELS."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{height} x {width} are more pixels than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}")


def _from_array(picture: np.ndarray | Tensor, name: str) -> Image.Image:
    from PIL import Image

    pixels = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    shape = " x ".join(map(str, pixels.shape))
    if pixels.dtype != np.uint8:
        raise ValueError(f"{name} has dtype {pixels.dtype}; expected uint8, 0 to 255")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise ValueError(f"{name} is {shape}; expected (height, width) or (height, width, channels): 1, 3 or 4 channels, last")
    if 0 in pixels.shape:
        raise ValueError(f"{name} is empty: {shape}")
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _colours(image: Image.Image, on_white: bool) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} does not say which number is white; make it 8 bits")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        if on_white:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
