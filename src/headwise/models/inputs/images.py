"""Pictures and films as models take them, by the settings of a checkpoint's preprocessor_config.json or by one's own.

    images = image_processor(folder)                    ViT, DeiT, CLIP, BLIP, DETR, YOLOS, ImageGPT, VideoMAE, TimeSformer
    images = ImageProcessor(size=square(32), ...)       or DetrImages, YolosImages, Films, ColourTokens: published names
    model(**images(pictures))

A picture is one of
    a path (str or Path)      turned upright by its EXIF mark, transparency dropped, the first frame of several
    a PIL picture             of any mode, as it stands; what is transparent comes to lie on white
    a uint8 array or tensor   (height, width) grey, or (height, width, channels) with 1, 3 (RGB) or 4 (RGBA) channels
A film is a list of pictures, its frames in order, or a uint8 array (frames, height, width, channels). Every picture becomes
RGB, or grey where image_mean has one number. Of 16-bit grey the upper eight bits count, as PIL reads 16-bit colour (PIL's own
conversion, and so transformers', makes everything above 255 white).

The steps, in this order, each with its do_...: resize, centre crop, rescale, normalize, pad
    value = (pixel rescale_factor - image_mean) / image_std        pixel 0 ... 255, a mean and a std for every channel
Sizes are {"height", "width"}; {"shortest_edge"}, the other in proportion; or that with a {"longest_edge"} it must not exceed.
They and the values are those of transformers 5's PIL processors to the bit: resized in uint8, scaled in float64, normalised in
float32. Its processors of films (*VideoProcessor) resize by torchvision, whose values differ a little; here PIL does it always.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwise.models.checkpoint.folder import CheckpointError
from headwise.models.inputs.colours import ColourTokens
from headwise.models.inputs.processors import (
    DETECTION,
    IMAGENET,
    SHORTEST,
    DetrImages,
    Films,
    ImageProcessor,
    YolosImages,
    square,
)
from headwise.models.inputs.settings import read_settings

__all__ = [
    "ColourTokens",
    "DetrImages",
    "Films",
    "ImageProcessor",
    "YolosImages",
    "boxes_relative",
    "image_processor",
    "square",
]
CLIP = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}
# image_processor_type: what reads it, and what it takes for granted where that differs.
KINDS: dict[str, tuple[type[ImageProcessor], dict[str, Any]]] = {
    "ViTImageProcessor": (ImageProcessor, {}),
    "DeiTImageProcessor": (
        ImageProcessor,
        {"size": square(256), "resample": 3, "do_center_crop": True, "crop_size": square(224)},
    ),
    "CLIPImageProcessor": (
        ImageProcessor,
        {"size": SHORTEST, "resample": 3, "do_center_crop": True, "crop_size": square(224)} | CLIP,
    ),
    "BlipImageProcessor": (ImageProcessor, {"size": square(384), "resample": 3} | CLIP),
    "DetrImageProcessor": (DetrImages, {"size": DETECTION}),
    "YolosImageProcessor": (YolosImages, {"size": DETECTION}),
    "ImageGPTImageProcessor": (ColourTokens, {}),
    "VideoMAEImageProcessor": (Films, {"size": SHORTEST}),
    "VideoMAEVideoProcessor": (Films, {"size": SHORTEST}),
    "TimesformerVideoProcessor": (Films, {"size": SHORTEST, "image_mean": IMAGENET[0], "image_std": IMAGENET[1]}),
}
# The model_type in config.json, for a file that does not say whose it is.
MODELS = {
    "vit": "ViTImageProcessor",
    "deit": "DeiTImageProcessor",
    "clip": "CLIPImageProcessor",
    "blip": "BlipImageProcessor",
    "detr": "DetrImageProcessor",
    "yolos": "YolosImageProcessor",
    "imagegpt": "ImageGPTImageProcessor",
    "videomae": "VideoMAEImageProcessor",
    "timesformer": "VideoMAEImageProcessor",
}
# Settings that change no pixel: of labels, of the way in or out, and what we do always (RGB) or never (take frames of a film).
SILENT = {
    *("image_processor_type", "video_processor_type", "feature_extractor_type", "processor_class", "auto_map"),
    *("format", "do_convert_annotations", "do_convert_rgb", "default_to_square", "data_format", "input_data_format"),
    *("return_tensors", "device", "disable_grouping", "image_seq_length", "num_frames", "fps", "return_metadata"),
    *("model_input_names", "size_divisor"),  # BLIP's files have the latter, and nothing reads it
}


def image_processor(folder: str | os.PathLike[str]) -> ImageProcessor:
    """What turns pictures into a model's input, from ``folder`` or a model of that name on the Hub.

    Read are processor_config.json, preprocessor_config.json and video_preprocessor_config.json, old names included. Raises
    CheckpointError with a sentence where there is none, its kind is unknown, or a setting would change pixels in a way we do
    not know.
    """
    kind, settings, place = read_settings(
        folder,
        "an image processor",
        "pictures",
        parts={"image_processor": "preprocessor_config.json", "video_processor": "video_preprocessor_config.json"},
        types=["image_processor_type", "video_processor_type", "feature_extractor_type"],
        models=MODELS,
    )
    kind = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if kind not in KINDS:
        raise CheckpointError(f"{place}: {kind} is not among what is read: {', '.join(KINDS)}")
    build, assumed = KINDS[kind]
    entries = {name: entry for name, entry in settings.items() if entry is not None and name[:1] != "_"}
    try:
        return build(**assumed | _modern(entries, build, assumed))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{place}: {error}") from None


def _modern(entries: dict[str, Any], build: type[ImageProcessor], assumed: dict[str, Any]) -> dict[str, Any]:
    """The settings by their present names and in their present form; what was saved long ago has other ones."""
    known = build.__dataclass_fields__
    found = {name: entry for name, entry in entries.items() if name in known}
    if issubclass(build, DetrImages):
        found.setdefault("do_pad", entries.get("pad_and_return_pixel_mask", True))
    read = SILENT | ({"max_size", "pad_and_return_pixel_mask"} if issubclass(build, DetrImages) else set())
    if wrong := sorted(name for name in entries.keys() - known.keys() - read if entries[name] is not False):
        raise ValueError(f"what {wrong[0]} = {str(entries[wrong[0]])[:80]} does to a picture is unknown")
    is_square = "height" in assumed.get("size", square(1))
    for name in ("size", "crop_size", "pad_size"):
        side = found.get(name)
        if isinstance(side, list) and len(side) == 2:
            found[name] = {"height": side[0], "width": side[1]}
        elif isinstance(side, int) and name == "size" and not entries.get("default_to_square", is_square):
            longest = {"longest_edge": entries.get("max_size", 1333)} if issubclass(build, DetrImages) else {}
            found[name] = {"shortest_edge": side} | longest
        elif isinstance(side, int):
            found[name] = square(side)
    for name in ("image_mean", "image_std"):
        if isinstance(found.get(name), int | float):
            found[name] = (found[name],) * 3
    return found


def boxes_relative(
    boxes: Float[Tensor, "boxes corners=4"] | Sequence[Sequence[float]],
    classes: Int[Tensor, " boxes"] | Sequence[int],
    *,
    height: int,
    width: int,
) -> dict[str, Tensor]:
    """One picture's labels for DETR and YOLOS: model(**images(pictures), labels=[boxes_relative(...) for each picture]).

    boxes are (x0, y0, x1, y1) in the pixels of the original picture, upright, height x width. Out come "class_labels" int64
    (boxes) and "boxes" float32 (boxes, 4), each (cx, cy, w, h) = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), x by the
    width and y by the height, 0 ... 1 of the picture without padding, as in the papers (transformers 5 reckons padding in,
    though it reads predictions without). Boxes are cut off at the edge, and left out where nothing remains.
    """
    corners, numbers = torch.as_tensor(boxes, dtype=torch.float32), torch.as_tensor(classes, dtype=torch.int64)
    corners = corners.reshape(-1, 4) if not corners.numel() else corners
    if corners.ndim != 2 or corners.shape[1] != 4 or numbers.shape != corners.shape[:1]:
        raise ValueError(f"expected boxes (n, 4) and n classes, got {tuple(corners.shape)} and {tuple(numbers.shape)}")
    if min(height, width) < 1:
        raise ValueError(f"height, width: expected the picture's, at least 1; got {height} and {width}")
    turned = ~(corners[:, 2:] >= corners[:, :2]).all(dim=1) | ~corners.isfinite().all(dim=1)
    if turned.any():
        raise ValueError(f"boxes: expected (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1; got {corners[turned][0].tolist()}")
    edge = torch.tensor([width, height, width, height], dtype=torch.float32)
    corners = corners.clamp(min=0).minimum(edge)
    first, last = corners[:, :2], corners[:, 2:]
    inside = (last > first).all(dim=1)
    relative = torch.cat([(first + last) / 2, last - first], dim=1) / edge
    return {"class_labels": numbers[inside], "boxes": relative[inside]}
