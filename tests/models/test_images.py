"""Pictures and films: the reference library's PIL processors, bit for bit, over their settings, odd sizes and modes.

Where transformers does something that nobody can want, there is a test with the reason.
"""

import io
import json
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.imagegpt.image_processing_pil_imagegpt import ImageGPTImageProcessorPil
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil, get_size_with_aspect_ratio_yolos

from headwise.models.checkpoint.folder import CheckpointError
from headwise.models.detr import DetrConfig, DetrForObjectDetection
from headwise.models.imagegpt.config import ImageGPTConfig
from headwise.models.imagegpt.model import ImageGPTForCausalImageModeling
from headwise.models.inputs.images import (
    ColourTokens,
    DetrImages,
    Films,
    ImageProcessor,
    YolosImages,
    boxes_relative,
    image_processor,
    square,
)
from headwise.models.videomae.config import VideoMAEConfig
from headwise.models.videomae.model import VideoMAEForVideoClassification
from headwise.models.vit.config import ViTConfig
from headwise.models.vit.model import ViTForImageClassification
from headwise.models.yolos import YolosConfig, YolosForObjectDetection

COLOURS = np.random.default_rng(7).uniform(-1, 1, (23, 3)).tolist()
SHAPES = [(61, 23), (29, 71), (37, 37), (1, 53), (43, 1), (5, 211), (1, 1), (31, 41)]  # height, width
EDGES = {"shortest_edge": 37, "longest_edge": 53}
SETTINGS = [
    (ViTImageProcessorPil, {}),
    *[(ViTImageProcessorPil, {"size": {"height": 29, "width": 13}, "resample": number}) for number in range(6)],
    (ViTImageProcessorPil, {"size": {"shortest_edge": 17}, "do_center_crop": True, "crop_size": {"height": 11, "width": 19}}),
    (ViTImageProcessorPil, {"size": {"shortest_edge": 37, "longest_edge": 41}, "do_normalize": False}),
    (
        ViTImageProcessorPil,
        {"do_resize": False, "do_rescale": False, "image_mean": [11.5, 7.0, 3.25], "image_std": [2.0, 3.0, 5.0]},
    ),
    (ViTImageProcessorPil, {"size": 19, "do_rescale": False, "do_normalize": False}),
    (ViTImageProcessorPil, {"size": [17, 23], "rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 0.5}),
    (ViTImageProcessorPil, {"size": 19, "do_pad": True, "pad_size": {"height": 23, "width": 29}}),
    (DeiTImageProcessorPil, {}),
    (CLIPImageProcessorPil, {"size": {"shortest_edge": 23}, "crop_size": {"height": 23, "width": 23}}),
    (CLIPImageProcessorPil, {"do_resize": False, "crop_size": {"height": 34, "width": 35}}),
    (CLIPImageProcessorPil, {"size": 31, "crop_size": 17}),
    (BlipImageProcessorPil, {}),
    (DetrImageProcessorPil, {"size": EDGES}),
    (DetrImageProcessorPil, {"size": {"height": 13, "width": 29}}),
    (DetrImageProcessorPil, {"size": EDGES, "pad_size": {"height": 61, "width": 67}, "resample": 3}),
    (DetrImageProcessorPil, {"size": EDGES, "do_rescale": False, "do_normalize": False}),
    (YolosImageProcessorPil, {"size": EDGES}),
    (YolosImageProcessorPil, {"size": {"height": 13, "width": 29}}),
    (ImageGPTImageProcessorPil, {"clusters": COLOURS, "size": {"height": 11, "width": 13}}),
    (ImageGPTImageProcessorPil, {"clusters": COLOURS, "size": 7, "do_color_quantize": False}),
    (ImageGPTImageProcessorPil, {"clusters": [[-1, -1, -1], [1, 1, 1], [0, 0, 0], [1, 1, 1]], "size": 17}),
    (VideoMAEImageProcessorPil, {"size": {"shortest_edge": 23}, "crop_size": {"height": 17, "width": 19}}),
    (
        VideoMAEImageProcessorPil,
        {"size": 13, "crop_size": 29, "image_mean": [0.45, 0.45, 0.45], "image_std": [0.225, 0.225, 0.225]},
    ),
]
# Files as they were written before there were dictionaries of sizes and types of image processors.
OLD = {
    "vit": {"feature_extractor_type": "ViTFeatureExtractor", "size": 37, "resample": 2, "image_mean": [0.5, 0.5, 0.5]},
    "vit, of today": {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 13, "width": 17}, "crop_size": None},
    "vit, nothing said": {"feature_extractor_type": "ViTFeatureExtractor"},
    "clip": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 41, "do_center_crop": True, "crop_size": 31},
    "clip, squares": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 41, "default_to_square": True, "crop_size": 43},
    "deit": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 41, "crop_size": 31},
    "blip": {"image_processor_type": "BlipImageProcessor", "do_pad": True, "size": square(29), "size_divisor": 32},
    "detr": {"feature_extractor_type": "DetrFeatureExtractor", "format": "coco_detection", "max_size": 53, "size": 37},
    "detr, no max_size": {"feature_extractor_type": "DetrFeatureExtractor", "size": 700, "pad_and_return_pixel_mask": True},
    "detr, no mask": {"feature_extractor_type": "DetrFeatureExtractor", "size": 17, "pad_and_return_pixel_mask": False},
    "detr, no size": {"feature_extractor_type": "DetrFeatureExtractor", "max_size": 53},
    "detr, both": {
        "image_processor_type": "DetrImageProcessor",
        "max_size": 53,
        "size": {"shortest_edge": 23, "longest_edge": 29},
    },
    "yolos": {
        "feature_extractor_type": "YolosFeatureExtractor",
        "max_size": 67,
        "size": 37,
        "_valid_processor_keys": ["images"],
    },
    "imagegpt": {"feature_extractor_type": "ImageGPTFeatureExtractor", "clusters": COLOURS, "do_normalize": True, "size": 7},
    "videomae": {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": 23, "do_center_crop": True, "resample": 2},
}


def make(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Noise with a slope, from a seed of its own for every size."""
    random = np.random.default_rng(1000 * height + width)
    slope = np.linspace(0, 200, height * width * 3).reshape(height, width, 3)
    picture = Image.fromarray((slope + random.integers(0, 56, (height, width, 3))).astype(np.uint8))
    if "A" in mode and mode != "LAB":
        picture.putalpha(Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8)))
    return picture.convert(mode)


def write(folder: Path, settings: dict, name: str = "preprocessor_config.json") -> Path:
    (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    return folder


def same(ours, reference, pictures: list) -> None:
    """Equal to the bit; where the reference cannot, we say so."""
    given = [[picture, picture.rotate(180)] for picture in pictures] if isinstance(ours, Films) else pictures
    try:
        expected = reference(given, return_tensors="pt")
    except ValueError:  # a side of 0
        with pytest.raises(ValueError, match="would become"):
            ours(given)
        return
    batch = ours(given)
    assert batch.keys() == expected.keys() - ({"pixel_mask"} if isinstance(ours, YolosImages) else set())
    for name, tensor in batch.items():
        assert tensor.dtype == (torch.float32 if name == "pixel_values" else torch.int64)
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name


def named(value: object) -> str:
    return value.__name__.removesuffix("ImageProcessorPil") if isinstance(value, type) else ""


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=named)
def test_values_are_the_references(kind, settings, tmp_path):
    reference = kind(**settings)
    reference.save_pretrained(tmp_path)
    ours = image_processor(tmp_path)
    for shape in SHAPES:
        same(ours, reference, [make(*shape)])


@pytest.mark.parametrize("age", OLD)
def test_old_files_are_read_as_the_reference_reads_them(age, tmp_path):
    write(tmp_path, OLD[age])
    ours, reference = image_processor(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)
    for shape in SHAPES[:2]:
        same(ours, reference, [make(*shape)])


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=named)
def test_what_is_saved_is_read_here_and_there(kind, settings, tmp_path):
    kind(**settings).save_pretrained(tmp_path)
    ours = image_processor(tmp_path)
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved")
    assert image_processor(tmp_path / "saved") == ours
    same(ours, AutoImageProcessor.from_pretrained(tmp_path / "saved"), [make(29, 71)])


@pytest.mark.parametrize("ours", [ImageProcessor(), DetrImages(), YolosImages(), Films(), ColourTokens(clusters=COLOURS)])
def test_what_one_builds_has_the_systems_own_values(ours, tmp_path):
    kinds = (ViTImageProcessorPil, DetrImageProcessorPil, YolosImageProcessorPil, VideoMAEImageProcessorPil)
    kind = next((kind for kind in kinds if kind.__name__ == f"{ours.published}Pil"), None)
    reference = kind() if kind else ImageGPTImageProcessorPil(clusters=COLOURS)
    reference.save_pretrained(tmp_path)
    assert image_processor(tmp_path) == ours


@pytest.mark.parametrize("kind", [DetrImageProcessorPil, YolosImageProcessorPil], ids=named)
@pytest.mark.parametrize("more", [{}, {"pad_size": {"height": 97, "width": 101}}], ids=["largest", "pad_size"])
def test_batches_are_padded_right_and_bottom(kind, more, tmp_path):
    reference = kind(size={"shortest_edge": 37, "longest_edge": 83}, **more)
    reference.save_pretrained(tmp_path)
    same(image_processor(tmp_path), reference, [make(61, 23), make(29, 71), make(37, 37)])


def test_padding_by_hand():
    ours = DetrImages(do_resize=False, do_rescale=False, do_normalize=False)
    batch = ours([np.full((2, 3, 3), 5, np.uint8), np.full((1, 2, 3), 7, np.uint8)])
    assert batch["pixel_values"][:, 1].tolist() == [[[5, 5, 5], [5, 5, 5]], [[7, 7, 0], [0, 0, 0]]]
    assert batch["pixel_mask"].tolist() == [[[1, 1, 1], [1, 1, 1]], [[1, 1, 0], [0, 0, 0]]]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 900), st.integers(1, 1400))
@example(height=480, width=640, side=800, longest=1333)
@example(height=1333, width=800, side=800, longest=1333)
@example(height=1067, width=800, side=801, longest=1066)
@example(height=1075, width=29, side=664, longest=1057)
@example(height=64, width=64, side=800, longest=333)
def test_sizes_in_proportion_are_the_references(height, width, side, longest):
    both = {"shortest_edge": side, "longest_edge": longest}
    assert DetrImages(size=both)._target(height, width) == get_size_with_aspect_ratio((height, width), side, longest)
    assert YolosImages(size=both)._target(height, width) == get_size_with_aspect_ratio_yolos((height, width), side, longest)
    picture = np.broadcast_to(np.uint8(0), (3, height, width))
    expected = get_resize_output_image_size(picture, side, default_to_square=False, input_data_format="channels_first")
    assert ImageProcessor(size={"shortest_edge": side})._target(height, width) == expected


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX"]


@pytest.mark.parametrize("mode", MODES)
def test_pil_pictures_of_every_mode(mode):
    """As the reference with do_convert_rgb: transparency lies on white."""
    reference = ViTImageProcessorPil(size=17, do_convert_rgb=True)
    same(ImageProcessor(size=square(17)), reference, [make(31, 41, mode)])


FILES = {"L": "png", "LA": "png", "P": "png", "RGB": "jpeg", "RGBA": "png", "CMYK": "jpeg", "1": "tiff"}


@pytest.mark.parametrize("mode", FILES)
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_files_of_every_mode_and_way_up(mode, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{FILES[mode]}"
    make(31, 41, mode).save(path, exif=exif)
    ours, reference = ImageProcessor(size=square(17)), ViTImageProcessorPil(size=17)
    expected = reference([str(path)], return_tensors="pt")["pixel_values"]
    for given_path in (path, str(path)):
        assert torch.equal(ours([given_path])["pixel_values"], expected)
    with Image.open(path) as picture:  # a PIL picture stays as it is
        same(ours, ViTImageProcessorPil(size=17, do_convert_rgb=True), [picture])


def test_palettes_with_transparent_entries(tmp_path):
    palette = make(31, 41).quantize(7)
    palette.info["transparency"] = bytes([0, 100, 255])
    same(ImageProcessor(size=square(17)), ViTImageProcessorPil(size=17, do_convert_rgb=True), [palette])
    palette.save(tmp_path / "picture.png")
    kept = ImageProcessor(size=square(17))(tmp_path / "picture.png")["pixel_values"]
    assert torch.equal(kept, ImageProcessor(size=square(17))(make(31, 41).quantize(7).convert("RGB"))["pixel_values"])


def test_of_16_bits_the_upper_eight_count(tmp_path):
    """Everything above 255 is white in PIL's conversion of grey, and in transformers; PIL's reader of colour takes these."""
    grey = np.arange(31 * 41, dtype=np.uint16).reshape(31, 41) * 51
    picture = Image.fromarray(grey)
    picture.save(tmp_path / "picture.png")
    expected = ImageProcessor(size=square(17))((grey // 256).astype(np.uint8))["pixel_values"]
    assert torch.equal(ImageProcessor(size=square(17))([picture])["pixel_values"], expected)
    assert torch.equal(ImageProcessor(size=square(17))([tmp_path / "picture.png"])["pixel_values"], expected)
    theirs = ViTImageProcessorPil(size=17, do_convert_rgb=True)([picture], return_tensors="pt")["pixel_values"]
    assert theirs.mean() > 0.9 > 0.1 > expected.mean().abs()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("wrap", [np.asarray, lambda picture: torch.from_numpy(np.array(picture))], ids=["array", "tensor"])
def test_arrays_are_the_pictures_they_hold(mode, wrap):
    ours = ImageProcessor(size=square(17))
    expected = ours([make(31, 41, mode)])["pixel_values"]
    assert torch.equal(ours([wrap(make(31, 41, mode))])["pixel_values"], expected)
    assert torch.equal(ours(wrap(make(31, 41, mode)))["pixel_values"], expected)  # one, not a list
    turned = wrap(make(31, 41, mode))
    turned = turned.swapaxes(0, 1)  # memory in another order
    assert torch.equal(
        ours([turned])["pixel_values"], ours([make(31, 41, mode).transpose(Image.Transpose.TRANSPOSE)])["pixel_values"]
    )


def test_one_picture_or_several():
    ours, picture = ImageProcessor(size=square(5)), make(7, 11)
    one = ours([picture])["pixel_values"]
    assert one.shape == (1, 3, 5, 5)
    for given_once in (picture, (picture,), iter([picture]), np.asarray(picture)[None]):
        assert torch.equal(ours(given_once)["pixel_values"], one)


def test_grey_for_a_model_with_one_channel():
    ours = ImageProcessor(size=square(17), image_mean=(0.25,), image_std=(0.5,))
    reference = ViTImageProcessorPil(size=17, image_mean=[0.25], image_std=[0.5])
    same(ours, reference, [make(31, 41, "L")])
    assert torch.equal(ours(make(31, 41))["pixel_values"], ours(make(31, 41, "L"))["pixel_values"])


def test_values_by_hand():
    ours = ImageProcessor(do_resize=False, rescale_factor=1 / 100, image_mean=(1.0, 1.5, 2.0), image_std=(0.5, 1.0, 4.0))
    values = ours(np.array([[[100, 200, 0]]], np.uint8))["pixel_values"]
    assert values.flatten().tolist() == [0.0, 0.5, -0.5]
    crop = ImageProcessor(
        do_resize=False, do_center_crop=True, crop_size={"height": 1, "width": 4}, do_rescale=False, do_normalize=False
    )
    assert crop(np.array([[1], [2], [3]], np.uint8).repeat(3, 1) * 10)["pixel_values"][0, 0].tolist() == [[0, 20, 20, 20]]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_centre_crops_are_the_references(height, width, crop_height, crop_width):
    crop = {"height": crop_height, "width": crop_width}
    ours = ImageProcessor(do_resize=False, do_center_crop=True, crop_size=crop)
    same(ours, ViTImageProcessorPil(do_resize=False, do_center_crop=True, crop_size=crop), [make(height, width)])


def test_films_are_the_references(tmp_path):
    reference = VideoMAEImageProcessorPil(size={"shortest_edge": 13}, crop_size=11)
    reference.save_pretrained(tmp_path)
    ours = image_processor(tmp_path)
    films = [[make(17, 19 + frame) for frame in range(3)], [make(23 + frame, 13) for frame in range(3)]]
    expected = reference(films, return_tensors="pt")["pixel_values"]
    assert torch.equal(ours(films)["pixel_values"], expected)
    assert torch.equal(ours(films[1])["pixel_values"], expected[1:])  # one, not a list of films
    arrays = [np.stack([np.asarray(make(17, 19))] * 3), np.stack([np.asarray(make(23, 13))] * 3)]
    expected = reference([list(film) for film in arrays], return_tensors="pt")["pixel_values"]
    assert torch.equal(ours(arrays)["pixel_values"], expected)
    assert torch.equal(ours(torch.from_numpy(arrays[0]))["pixel_values"], expected[:1])
    assert expected.shape == (2, 3, 3, 11, 11)


@pytest.mark.parametrize("name", ["video_preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize(("kind", "mean"), [("VideoMAE", (0.5, 0.5, 0.5)), ("Timesformer", (0.485, 0.456, 0.406))])
def test_files_of_video_processors(name, kind, mean, tmp_path):
    """transformers writes them where torchvision is; do_sample_frames is their own."""
    settings = {"video_processor_type": f"{kind}VideoProcessor", "size": {"shortest_edge": 13}, "do_sample_frames": False}
    write(tmp_path, settings if name[0] == "v" else {"processor_class": "X", "video_processor": settings}, name)
    assert image_processor(tmp_path) == Films(
        size={"shortest_edge": 13}, image_mean=mean, image_std=image_processor(tmp_path).image_std
    )
    write(tmp_path, {"image_processor": {"image_processor_type": "ViTImageProcessor", "size": 11}}, "processor_config.json")
    assert image_processor(tmp_path) == ImageProcessor(size=square(11))  # the newest file is the one that counts


@pytest.mark.parametrize("model", ["vit", "yolos", "detr", "videomae", "timesformer", "clip", "blip", "deit"])
def test_without_a_type_the_models_own_is_taken(model, tmp_path):
    write(tmp_path, {"model_type": model}, "config.json")
    write(tmp_path, {"do_resize": False})
    found = image_processor(tmp_path)
    assert found.published.lower().startswith(
        {"timesformer": "videomae", "clip": "vit", "blip": "vit", "deit": "vit"}.get(model, model)
    )
    assert model != "timesformer" or found == Films(do_resize=False)  # not its video processor's mean


def test_nearest_colours_are_the_references():
    """Also where two are as near: greys half-way between two clusters, and clusters that are there twice."""
    steps = np.linspace(-1, 1, 9)
    clusters = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    clusters = np.concatenate([clusters[::-1], clusters]).tolist()
    settings = {"size": square(41), "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    pictures = [make(41, 41), make(31, 41, "L").convert("RGB"), Image.new("RGB", (3, 3), (16, 48, 144))]
    same(ColourTokens(clusters=clusters, **settings), ImageGPTImageProcessorPil(clusters=clusters, **settings), pictures)


def test_a_hair_between_two_colours():
    """Two clusters opposite each other around a pixel: rounding decides, ours as the reference's."""
    random = np.random.default_rng(5)
    for _ in range(97):
        pixel = random.integers(0, 256, (1, 1, 3), dtype=np.uint8)
        value, aside = pixel.reshape(3) / np.float32(255) * 2 - 1, random.uniform(-1, 1, 3)
        settings = {"clusters": [[*(value + aside)], [*(value - aside)]], "do_resize": False}
        reference = ImageGPTImageProcessorPil(**settings)
        same(ColourTokens(**settings), reference, [Image.fromarray(pixel)])


def test_colours_come_back_as_pictures():
    colours = np.random.default_rng(3).permutation(256)[:231].reshape(77, 3)
    clusters = (colours / 127.5 - 1).tolist()
    ours = ColourTokens(clusters=clusters, size={"height": 7, "width": 11})
    tokens = torch.randperm(77)[None]
    (picture,) = ours.pictures(tokens)
    assert picture.size == (11, 7)
    assert np.array_equal(np.asarray(picture).reshape(-1, 3), colours[tokens[0]])
    assert torch.equal(ours(picture)["input_ids"], tokens)
    plain = ColourTokens(clusters=colours.tolist(), size={"height": 7, "width": 11}, do_rescale=False, do_normalize=False)
    assert np.array_equal(np.asarray(plain.pictures(tokens)[0]), np.asarray(picture))


@torch.no_grad()
def test_models_take_what_comes_out():
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "patch_size": 8}
    vit = ViTForImageClassification(ViTConfig(**small, image_size=16)).eval()
    assert vit(**ImageProcessor(size=square(16))([make(31, 41), make(5, 7)])).logits.shape[0] == 2
    videomae = VideoMAEForVideoClassification(VideoMAEConfig(**small, image_size=16, num_frames=2)).eval()
    films = Films(size={"shortest_edge": 16}, crop_size=square(16))
    assert videomae(**films([[make(31, 41)] * 2])).logits.shape[0] == 1
    config = ImageGPTConfig(vocab_size=24, n_positions=35, n_embd=8, n_layer=1, n_head=2)
    tokens = ColourTokens(clusters=COLOURS, size={"height": 5, "width": 7})
    assert ImageGPTForCausalImageModeling(config).eval()(**tokens([make(31, 41)])).logits.shape == (1, 35, 23)


@torch.no_grad()
def test_detectors_take_pictures_and_labels():
    pictures = [make(31, 41), make(61, 23)]
    labels = [boxes_relative([[3.0, 5.0, 19.0, 23.0]], [1], height=picture.height, width=picture.width) for picture in pictures]
    small = {"num_attention_heads": 2, "intermediate_size": 8, "num_detection_tokens": 3}
    yolos = YolosForObjectDetection(
        YolosConfig(**small, hidden_size=8, num_hidden_layers=2, image_size=32, patch_size=16)
    ).eval()
    both = {"shortest_edge": 32, "longest_edge": 64}
    assert yolos(**YolosImages(size=both)(pictures), labels=labels).loss.isfinite()
    stages = {"embedding_size": 4, "hidden_sizes": [4, 4, 4, 8], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    config = DetrConfig(**heads, d_model=8, encoder_layers=1, decoder_layers=1, use_timm_backbone=False, backbone_config=stages)
    assert DetrForObjectDetection(config).eval()(**DetrImages(size=both)(pictures), labels=labels).loss.isfinite()


def test_boxes_are_the_references():
    """One picture, unpadded. Beside a larger one the reference's boxes shrink with the padding, and the papers' do not."""
    boxes, classes = [[3.0, 5.0, 19.0, 23.0], [-2.0, 7.5, 11.0, 90.0], [30.0, 1.0, 30.0, 9.0]], [2, 7, 1]
    bounds = [
        {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": c, "area": 1.0}
        for (x0, y0, x1, y1), c in zip(boxes, classes, strict=True)
    ]
    target = {"image_id": 1, "annotations": bounds}
    expected = DetrImageProcessorPil(size=EDGES)(make(31, 41), target, return_tensors="pt")["labels"][0]
    ours = boxes_relative(boxes, classes, height=31, width=41)
    assert torch.equal(ours["class_labels"], expected["class_labels"])
    torch.testing.assert_close(ours["boxes"], expected["boxes"], atol=1e-6, rtol=0)
    assert ours["boxes"][0].tolist() == pytest.approx([11 / 41, 14 / 31, 16 / 41, 18 / 31])
    batch = DetrImageProcessorPil(size=EDGES)([make(31, 41), make(61, 23)], [target, target], return_tensors="pt")
    assert not torch.allclose(batch["labels"][0]["boxes"], expected["boxes"], atol=0.01)
    none = boxes_relative([], [], height=31, width=41)
    assert none["boxes"].shape == (0, 4)
    assert none["class_labels"].shape == (0,)


def test_photographs():
    """Real files, resized as published: equal to the bit."""
    places = [Path(os.environ.get("HEADWISE_DATA", "")), Path(__file__).parents[3] / "shared" / "data"]
    folder = next((place / "photos" for place in places if (place / "photos").is_dir()), None)
    if folder is None:
        pytest.skip("no data set: set HEADWISE_DATA to the folder that holds photos")
    for path in sorted([*folder.glob("*.jpg"), *folder.glob("*.png")])[:5]:
        for ours, kind in ((ImageProcessor(), ViTImageProcessorPil), (YolosImages(), YolosImageProcessorPil)):
            assert torch.equal(ours(path)["pixel_values"], kind()([str(path)], return_tensors="pt")["pixel_values"]), path


PLAIN = ImageProcessor(size=square(5))
ASKEW = ImageProcessor(size={"shortest_edge": 5})
WRONG_CALLS = {
    "nothing": (PLAIN, [], "there are no pictures: a batch has at least one"),
    "a number": (PLAIN, 5, "expected pictures (PIL's, paths or uint8 arrays), got int"),
    "none": (PLAIN, [make(3, 5), None], "picture 1 is a NoneType; expected a PIL picture, a path or a uint8 array"),
    "a list in a list": (PLAIN, [[make(3, 5)]], "picture 0 is a list; expected a PIL picture"),
    "channels first": (PLAIN, [np.zeros((3, 5, 7), np.uint8)], "picture 0 is 3 x 5 x 7; expected (height, width) or (height,"),
    "two channels": (PLAIN, torch.zeros(5, 7, 2, dtype=torch.uint8), "picture 0 is 5 x 7 x 2; expected"),
    "one dimension": (PLAIN, [np.zeros(5, np.uint8)], "picture 0 is 5; expected (height, width)"),
    "0.0 to 1.0": (PLAIN, [torch.rand(5, 7, 3)], "picture 0 has dtype float32; expected uint8, 0 to 255"),
    "empty array": (PLAIN, [np.zeros((0, 7, 3), np.uint8)], "picture 0 is empty: 0 x 7 x 3"),
    "empty picture": (PLAIN, [Image.new("RGB", (0, 7))], "picture 0 is empty: 7 x 0"),
    "32 bits": (PLAIN, [Image.new("I", (3, 5))], "picture 0 cannot be read: mode I does not say which number is white"),
    "floats": (PLAIN, [Image.new("F", (3, 5))], "picture 0 cannot be read: mode F does not say which number is white"),
    "sizes differ": (ASKEW, [make(5, 7), make(5, 11)], "need one size, got [(5, 7), (5, 11)] (height, width) and no do_pad"),
    "no place to pad": (
        DetrImages(size={"shortest_edge": 5, "longest_edge": 9}, pad_size=square(7)),
        [make(5, 9)],
        "pictures of 5 x 9 are larger than pad_size, {'height': 7, 'width': 7}",
    ),
    "too thin": (YolosImages(), [make(1, 900)], "picture 0: 1 x 900 would become 0 x 896"),
    "too long": (
        ImageProcessor(size={"shortest_edge": 900}),
        [make(1, 900)],
        "picture 0: 900 x 810000 are more pixels than PIL.Image.",
    ),
    "too large a crop": (Films(crop_size=square(10**6)), [make(3, 5)], "1000000 x 1000000 are more pixels than PIL.Image.MAX_"),
    "too large a frame": (
        DetrImages(do_resize=False, pad_size=square(20000)),
        [make(3, 5)],
        "20000 x 20000 are more pixels than PIL.Image.MAX_",
    ),
    "films' lengths": (Films(), [[make(3, 5)] * 2, [make(3, 5)] * 3], "need equally many frames, got [2, 3]"),
    "no films": (Films(), [], "there are no pictures: a batch has at least one"),
    "no frames": (Films(), [[]], "there are no pictures: a batch has at least one"),
    "a frame": (
        Films(),
        [[make(3, 5), make(3, 5)], [make(3, 5), "x"]],
        "x cannot be read as a picture: No such file or directory",
    ),
    "a frame's array": (Films(), [[make(3, 5), np.zeros(3)]], "film 0, frame 1 has dtype float64"),
}


@pytest.mark.nohook
@pytest.mark.parametrize("case", WRONG_CALLS)
def test_a_wrong_call_is_answered(case):
    ours, given_wrong, problem = WRONG_CALLS[case]
    with pytest.raises(ValueError, match=re.escape(problem)):
        ours(given_wrong)


WRONG_SETTINGS = {
    "size": (
        ImageProcessor,
        {"size": 224},
        "size is 224; expected {height, width} or {shortest_edge} or {longest_edge, shortest",
    ),
    "half a size": (ImageProcessor, {"size": {"height": 5}}, "size is {'height': 5}; expected"),
    "one side": (DetrImages, {"size": {"shortest_edge": 5}}, "expected {height, width} or {longest_edge, shortest_edge}, in"),
    "no side": (ImageProcessor, {"size": square(0)}, "size is {'height': 0, 'width': 0}"),
    "crop": (
        ImageProcessor,
        {"crop_size": {"shortest_edge": 5}},
        "crop_size is {'shortest_edge': 5}; expected {height, width}, in",
    ),
    "no crop": (ImageProcessor, {"do_center_crop": True}, "do_center_crop needs a crop_size"),
    "crop of boxes": (DetrImages, {"do_center_crop": True, "crop_size": square(5)}, "there is no do_center_crop"),
    "two means": (ImageProcessor, {"image_mean": (0.5, 0.5)}, "expected 1 or 3 numbers each as image_mean and image_std"),
    "std 0": (ImageProcessor, {"image_std": (0.5, 0, 0.5)}, "the latter not 0; got"),
    "a word": (ImageProcessor, {"image_mean": ("a", 0, 0)}, "are numbers, got 'a'"),
    "no factor": (ImageProcessor, {"rescale_factor": float("nan")}, "are numbers, got nan"),
    "not a flag": (ImageProcessor, {"do_resize": 1}, "do_resize is 1; expected True or False"),
    "resample": (ImageProcessor, {"resample": "bilinear"}, "resample is 'bilinear'; expected PIL's 0 to 5"),
    "no colours": (ColourTokens, {}, "do_color_quantize needs clusters"),
    "colours": (ColourTokens, {"clusters": [[1, 2]]}, "clusters is a list of colours with 3 numbers each"),
    "grey colours": (ColourTokens, {"clusters": COLOURS, "image_mean": (0,), "image_std": (1,)}, "colours need 3 means"),
}


@pytest.mark.nohook
@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_wrong_settings_are_answered(case, tmp_path):
    build, settings, problem = WRONG_SETTINGS[case]
    with pytest.raises(ValueError, match=re.escape(problem)):
        build(**settings)
    if case not in ("size", "not a flag", "no factor"):  # a file's number is the side of a square
        write(tmp_path, settings | {"image_processor_type": build.published})
        with pytest.raises(CheckpointError, match=re.escape(problem)):
            image_processor(tmp_path)


@pytest.mark.nohook
def test_tokens_and_boxes_that_cannot_be():
    ours = ColourTokens(clusters=COLOURS, size={"height": 2, "width": 3})
    for tokens, problem in (
        (
            torch.zeros(1, 7, dtype=torch.int64),
            "expected tokens (batch, height width) for {'height': 2, 'width': 3}, got (1, 7)",
        ),
        (torch.full((1, 6), 23), "tokens of colours are 0 to 22; the start token is none"),
        (torch.full((1, 6), -1), "tokens of colours are 0 to 22"),
    ):
        with pytest.raises(ValueError, match=re.escape(problem)):
            ours.pictures(tokens)
    for boxes, classes in ((torch.zeros(2, 3), [1, 2]), (torch.zeros(2, 4), [1]), (torch.zeros(4), [1])):
        with pytest.raises(ValueError, match=re.escape("expected boxes (n, 4) and n classes, got")):
            boxes_relative(boxes, classes, height=3, width=5)
    for box in ([5.0, 5.0, 1.0, 9.0], [1.0, 9.0, 5.0, 5.0], [1.0, torch.nan, 5.0, 5.0], [1.0, 1.0, torch.inf, 5.0]):
        with pytest.raises(ValueError, match=re.escape("expected (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1; got [")):
            boxes_relative([box], [1], height=30, width=50)
    with pytest.raises(ValueError, match="height, width: expected the picture's, at least 1; got 0 and 5"):
        boxes_relative([[0.0, 0.0, 1.0, 1.0]], [1], height=0, width=5)
    for none in (b"\x89PNG", io.BytesIO(b"\x89PNG"), 5, None):
        with pytest.raises(ValueError, match=f"expected pictures .*, got {type(none).__name__}"):
            ImageProcessor()(none)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int) -> bytes:
    """A few bytes that claim to be so large a picture."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("claim", [(9500, 9500), (30000, 30000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("filters", ["error", "ignore"])
def test_a_picture_too_large_is_refused(claim, filters, tmp_path):
    (tmp_path / "picture.png").write_bytes(png(*claim))
    with warnings.catch_warnings():
        warnings.simplefilter(filters)
        with pytest.raises(ValueError, match=r"picture\.png cannot be read as a picture: ") as error:
            PLAIN(tmp_path / "picture.png")
    assert "pixels" in str(error.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "tiff", "bmp", "webp"])
def test_damaged_files_are_answered(kind, tmp_path):
    stream, path = io.BytesIO(), tmp_path / f"picture.{kind}"
    make(31, 41).save(stream, kind)
    whole, random = stream.getvalue(), np.random.default_rng(0)
    for length in [*range(0, 40, 7), *random.integers(40, len(whole) - 40, 20)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be read as a picture: .") as error:
            PLAIN([make(3, 5), path])
        assert error.value.__suppress_context__  # no stack of PIL's
        with pytest.raises(ValueError, match=r"^picture 1 cannot be read: .|picture.\w+ cannot be read as a picture"):
            PLAIN([make(3, 5), opened(path)])
    for _ in range(40):  # other bytes somewhere: read or answered
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            assert PLAIN(path)["pixel_values"].shape == (1, 3, 5, 5)
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be read as a picture: ")  # noqa: PT017


def opened(path: Path) -> Image.Image | Path:
    """PIL's picture, whose pixels are not read yet; the path where not even that can be had."""
    try:
        return Image.open(io.BytesIO(path.read_bytes()))
    except Exception:
        return path


FILE_DAMAGES = {
    "no folder": (None, "is not a folder with an image processor"),
    "nothing": ({}, "holds no preprocessor_config.json, nor another file that says how pictures go in"),
    "no JSON": ({"preprocessor_config.json": "{"}, "preprocessor_config.json is not JSON: "),
    "a list": ({"preprocessor_config.json": "[]"}, "preprocessor_config.json is not a JSON object"),
    "a recording's": (
        {"preprocessor_config.json": '{"feature_extractor_type": "Wav2Vec2FeatureExtractor"}'},
        "preprocessor_config.json: Wav2Vec2ImageProcessor is not among what is read: ViTImageProcessor, DeiT",
    ),
    "no type": ({"preprocessor_config.json": "{}"}, "the processor of model_type None is not among what is read: ViT"),
    "unknown": (
        {"preprocessor_config.json": '{"image_processor_type": "ViTImageProcessor", "do_flip_channel_order": true}'},
        "preprocessor_config.json: what do_flip_channel_order = True does to a picture is unknown",
    ),
    "max_size": (
        {"preprocessor_config.json": '{"image_processor_type": "ViTImageProcessor", "max_size": 5}'},
        "what max_size = 5 does to a picture is unknown",
    ),
    "frames": (
        {"video_preprocessor_config.json": '{"video_processor_type": "VideoMAEVideoProcessor", "do_sample_frames": true}'},
        "video_preprocessor_config.json: what do_sample_frames = True does to a picture is unknown",
    ),
    "size": (
        {"processor_config.json": '{"image_processor": {"image_processor_type": "ViTImageProcessor", "size": {"side": 5}}}'},
        "processor_config.json: size is {'side': 5}; expected",
    ),
    "true": (
        {"preprocessor_config.json": '{"image_processor_type": "ViTImageProcessor", "size": true}'},
        "size is {'height': True",
    ),
}


@pytest.mark.nohook
@pytest.mark.parametrize("case", FILE_DAMAGES)
def test_what_is_wrong_with_a_folder_is_said(case, tmp_path):
    files, problem = FILE_DAMAGES[case]
    for name, content in (files or {}).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    folder = tmp_path if files is not None else tmp_path / "gone"
    with pytest.raises(CheckpointError, match=re.escape(problem)) as error:
        image_processor(folder)
    assert str(error.value).startswith(str(folder))


def test_what_changes_nothing_is_passed_over(tmp_path):
    quiet = {"do_flip_channel_order": False, "offset": None, "processor_class": "X", "auto_map": {"A": "b"}, "_x": 1}
    write(tmp_path, quiet | {"image_processor_type": "ViTImageProcessor", "format": "x", "num_frames": 8})
    assert image_processor(tmp_path) == ImageProcessor()
