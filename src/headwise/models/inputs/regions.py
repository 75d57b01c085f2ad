"""Regions of pictures as vision-language models read them: features of a detector from published files, or of crops.

A region is a row of 2048 features of what is in a box, and six numbers of the box: x1 / W, y1 / H, x2 / W, y2 / H,
w / W, h / H.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from headwise.models.inputs.rgb import Picture, as_rgb
from headwise.models.vision import Patches


def read_features(path: str | os.PathLike[str]) -> Iterator[tuple[str, Float[Tensor, "regions feature_dim"]]]:
    """Picture by picture, its id and its regions, from Oscar's feature TSV: the id, and an object with num_boxes and features,
    float32 numbers in base64. Raises ValueError that names the line."""
    for place, name, entry in _rows(path):
        if not isinstance(entry, dict) or not {"num_boxes", "features"} <= entry.keys():
            raise ValueError(f"{place}: expected an object with num_boxes and features")
        count, text = entry["num_boxes"], entry["features"]
        if type(count) is not int or count < 0 or not isinstance(text, str):
            raise ValueError(f"{place}: expected num_boxes, a number from 0, and features, a text in base64")
        try:
            held = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{place}: features are not base64: {error}") from None
        if len(held) % 4 or (len(held) // 4) % max(count, 1) or (count == 0) != (not held):
            raise ValueError(f"{place}: {len(held)} bytes are not the float32 features of {count} boxes")
        numbers = torch.from_numpy(np.frombuffer(held, dtype="<f4").copy())
        yield name, numbers.view(count, -1) if count else numbers.view(0, 0)


def read_tags(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Picture by picture, its id and its tags, joined by spaces, from Oscar's label TSV: the id, and a list of objects whose
    class is a tag. Raises ValueError that names the line."""
    for place, name, entry in _rows(path):
        if not isinstance(entry, list) or not all(isinstance(x, dict) and isinstance(x.get("class"), str) for x in entry):
            raise ValueError(f"{place}: expected a list of objects, each with a class")
        yield name, " ".join(x["class"] for x in entry)


def _rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, str, Any]]:
    """Of every line its place, its id and what its JSON holds."""
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            place, (name, tab, text) = f"{path}, line {number}", line.rstrip("\n").partition("\t")
            if not tab:
                raise ValueError(f"{place}: expected an id, a tab and JSON")
            try:
                entry = json.loads(text.partition("\t")[0])
            except ValueError as error:
                raise ValueError(f"{place}: not JSON: {error}") from None
            yield place, name, entry


def with_boxes(
    features: Float[Tensor, "regions feature_dim"], boxes: Float[Tensor, "regions 4"], size: tuple[int, int]
) -> Float[Tensor, "regions feature_dim_and_6"]:
    """Features, and after them the six numbers of each box. boxes: x1, y1, x2, y2 in pixels; size: the picture's height and
    width."""
    if boxes.shape != (len(features), 4):
        raise ValueError(f"boxes: expected {(len(features), 4)}, x1, y1, x2, y2 of each; got {tuple(boxes.shape)}")
    (height, width), (x1, y1, x2, y2) = size, boxes.unbind(-1)
    if min(height, width) < 1 or bool((x2 <= x1).any() or (y2 <= y1).any()):
        raise ValueError(f"boxes: expected x1 < x2 and y1 < y2, in pixels of a picture of (height, width) = {size}")
    numbers = (x1 / width, y1 / height, x2 / width, y2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return torch.cat([features, torch.stack(numbers, dim=-1).to(features.dtype)], dim=-1)


def padded(
    regions: Sequence[Tensor], count: int = 50
) -> tuple[Float[Tensor, "batch {count} feature_dim"], Bool[Tensor, "batch {count}"]]:
    """Regions of several pictures as img_feats, ``count`` of each: cut, or filled up with zeros; and which are real."""
    if not regions or {x.dim() for x in regions} != {2} or len({x.shape[1] for x in regions if len(x)}) > 1:
        shapes = [tuple(x.shape) for x in regions]
        raise ValueError(f"regions: expected (number, feature_dim) of each picture, with one feature_dim; got {shapes}")
    width = max(x.shape[1] for x in regions)
    some = [x[:count] if len(x) else x.new_zeros(0, width) for x in regions]
    features = torch.stack([functional.pad(x, (0, 0, 0, count - len(x))) for x in some])
    real = torch.tensor([len(x) for x in some], device=features.device)[:, None]
    return features, torch.arange(count, device=features.device) < real


def crops(picture: Picture, boxes: Float[Tensor, "regions 4"], size: int = 32) -> Float[Tensor, "regions 3 {size} {size}"]:
    """What is in each box, x1, y1, x2, y2 in pixels, as a square of ``size`` pixels (bilinear), from -1 to 1."""
    from PIL.Image import Resampling

    image = as_rgb(picture, "the picture")
    squares = []
    for x1, y1, x2, y2 in boxes.tolist():
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(image.width)), min(y2, float(image.height)))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ValueError(f"box {(x1, y1, x2, y2)} has nothing of a picture of {image.width} x {image.height} pixels")
        squares.append(np.asarray(image.resize((size, size), Resampling.BILINEAR, box)))
    pixels = torch.from_numpy(np.stack(squares)) if squares else torch.zeros(0, size, size, 3)
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


class PatchRegions(nn.Module):
    """W_2 mean(gelu(W_1 p + b_1)) + b_2 over the patches p of a region's crop: features that are learned together with the
    model which reads them, where there is no detector. Ours, not Oscar's."""

    def __init__(self, feature_dim: int = 2048, hidden_dim: int = 256, patch_size: int = 8) -> None:
        super().__init__()
        self.patches = Patches(3, hidden_dim, (patch_size, patch_size))
        self.project = nn.Linear(hidden_dim, feature_dim)

    def forward(self, crops: Float[Tensor, "regions 3 height width"]) -> Float[Tensor, "regions feature_dim"]:
        """crops: as ``crops`` makes them; ``with_boxes`` puts the boxes' numbers behind the features."""
        return self.project(functional.gelu(self.patches(crops)).mean(dim=1))
