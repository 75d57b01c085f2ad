"""Regions: the published files of a detector's features and tags, boxes as numbers, and crops of any picture."""

import base64
import json
import struct

import pytest
import torch
from test_oscar import build

from headwise.models.inputs import regions
from headwise.models.oscar import ImageBertForSequenceClassification

FEATURES = [torch.randn(n, 13, generator=torch.Generator().manual_seed(n)) for n in (3, 7, 1)]


def feature_line(name, features):
    numbers = struct.pack(f"<{features.numel()}f", *features.flatten().tolist())
    return f"{name}\t{json.dumps({'num_boxes': len(features), 'features': base64.b64encode(numbers).decode()})}\n"


def test_features_and_tags_of_the_originals_files(tmp_path):
    features = dict(zip("abc", FEATURES, strict=True))
    lines = [feature_line(name, x) for name, x in features.items()]
    (tmp_path / "features.tsv").write_text("".join([*lines, feature_line("d", torch.zeros(0, 13))]), "utf-8")
    found = dict(regions.read_features(tmp_path / "features.tsv"))
    assert list(found) == ["a", "b", "c", "d"]
    assert all(torch.equal(found[name], x) for name, x in features.items())
    assert len(found["d"]) == 0
    (tmp_path / "labels.tsv").write_text('a\t[{"class": "dog", "conf": 0.9}, {"class": "fire hydrant"}]\nb\t[]\n', "utf-8")
    assert dict(regions.read_tags(tmp_path / "labels.tsv")) == {"a": "dog fire hydrant", "b": ""}
    img_feats, real = regions.padded(list(found.values()), 5)
    assert img_feats.shape == (4, 5, 13)
    assert real.sum(1).tolist() == [3, 5, 1, 0]
    assert torch.equal(img_feats[1], features["b"][:5])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("b {}", "expected an id, a tab and JSON"),
        ("b\t{", "not JSON"),
        ("b\t[]", "expected an object with num_boxes and features"),
        ('b\t{"num_boxes": 2, "features": "#"}', "features are not base64"),
        ('b\t{"num_boxes": 2, "features": "AAAAAAAAAAAAAAAA"}', "12 bytes are not the float32 features of 2 boxes"),
        ('b\t{"num_boxes": -1, "features": ""}', "expected num_boxes, a number from 0"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line, said, tmp_path):
    (tmp_path / "features.tsv").write_text(feature_line("a", torch.zeros(1, 2)) + line + "\n", "utf-8")
    with pytest.raises(ValueError, match=f"features.tsv, line 2: .*{said}"):
        list(regions.read_features(tmp_path / "features.tsv"))


def test_boxes_are_six_numbers():
    found = regions.with_boxes(torch.ones(1, 2), torch.tensor([[10.0, 20.0, 40.0, 80.0]]), (100, 200))
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, 0.05, 0.2, 0.2, 0.8, 0.15, 0.6]]))
    with pytest.raises(ValueError, match="x1 < x2"):
        regions.with_boxes(torch.ones(1, 2), torch.tensor([[40.0, 20.0, 10.0, 80.0]]), (100, 200))


def test_regions_of_any_picture_are_learned_with_the_model():
    picture = torch.zeros(40, 60, 3, dtype=torch.uint8)
    picture[:20, :30, 0] = 255  # red above on the left
    boxes = torch.tensor([[0.0, 0.0, 30.0, 20.0], [30.0, 20.0, 60.0, 40.0]])
    squares = regions.crops(picture, boxes, 16)
    assert squares.shape == (2, 3, 16, 16)
    assert torch.equal(squares[:, :, 8, 8], torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]))
    beyond, whole = torch.tensor([[-9.0, -5, 70, 80]]), torch.tensor([[0.0, 0, 60, 40]])
    assert torch.equal(regions.crops(picture, beyond), regions.crops(picture, whole))  # what is beyond the picture is cut off
    with pytest.raises(ValueError, match="has nothing of a picture of 60 x 40 pixels"):
        regions.crops(picture, boxes + 100)
    encoder = regions.PatchRegions(feature_dim=7, hidden_dim=6)
    features = regions.with_boxes(encoder(squares), boxes, (40, 60))
    img_feats, real = regions.padded([features], 3)
    model = build(ImageBertForSequenceClassification).float()
    keep = torch.cat([torch.ones(1, 4), real], dim=1)
    model(
        torch.ones(1, 4, dtype=torch.long), attention_mask=keep, img_feats=img_feats, labels=torch.tensor([1])
    ).loss.backward()
    assert all(parameter.grad.any() for parameter in encoder.parameters())
