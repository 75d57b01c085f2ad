"""Detectors: boxes, matching and loss are the reference's; YOLOS and DETR are the published ones, in every layout of files."""

import json
from itertools import permutations
from types import SimpleNamespace

import pytest
import tiny
import torch
from parity import CLOSE, Pair
from safetensors.torch import load_file, save_file
from test_parity import OBJECTS, RESNET, SYSTEMS

import headwise as hw
from headwise.models.checkpoint.folder import CheckpointError
from headwise.models.detection import DetectionConfig, DetectionOutput, corners, giou, match, set_loss
from headwise.models.detr import DetrConfig, DetrForObjectDetection, ResNetConfig
from headwise.models.detr.resnet import ResNet

CONFIG = DetectionConfig(id2label={i: str(i) for i in range(4)}, class_cost=2, bbox_cost=3, bbox_loss_coefficient=4)


def boxes(*shape: int) -> torch.Tensor:
    """Somewhere in the picture, some of them across its edges."""
    return torch.cat([torch.rand(*shape, 2), 0.05 + 0.6 * torch.rand(*shape, 2)], dim=-1)


def objects(*counts: int, classes: int = 4) -> list[dict[str, torch.Tensor]]:
    return [
        {"class_labels": torch.randint(classes, (count,)), "boxes": boxes(count), "area": torch.ones(count)} for count in counts
    ]


def predictions(batch: int, queries: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * torch.randn(batch, queries, classes + 1), boxes(batch, queries)


def reference_loss(logits, predicted, labels, config=CONFIG, **layers):
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    said = {name: getattr(config, name) for name in DetectionConfig.__dataclass_fields__}
    given = SimpleNamespace(**said, num_labels=config.num_labels, auxiliary_loss=bool(layers), decoder_layers=3)
    return ForObjectDetectionLoss(logits, labels, "cpu", predicted, given, **layers)[:2]


def test_giou_by_hand_and_by_the_reference():
    from transformers.loss.loss_for_object_detection import generalized_box_iou

    unit, beside, over = torch.tensor([[0.0, 0, 1, 1], [2, 0, 3, 1], [0, 0, 1, 2]]).unbind(0)
    assert giou(unit, unit) == 1
    assert giou(unit, beside) == pytest.approx(-1 / 3)
    assert giou(unit, over) == 0.5
    ours, theirs = corners(boxes(7)), corners(boxes(5))
    torch.testing.assert_close(giou(ours[:, None], theirs), generalized_box_iou(ours, theirs))


@pytest.mark.parametrize("queries", [3, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_a_matching_is_the_cheapest_of_all(queries, count):
    (logits, predicted), (label,) = predictions(1, queries), objects(count)
    p, wanted = logits[0].softmax(-1), label["boxes"]
    cost = -2 * p[:, label["class_labels"]] + 3 * torch.cdist(predicted[0], wanted, p=1)
    cost = cost - 2 * giou(corners(predicted[0])[:, None], corners(wanted))
    if count <= queries:
        pairs = [list(zip(chosen, range(count), strict=True)) for chosen in permutations(range(queries), count)]
    else:
        pairs = [list(zip(range(queries), chosen, strict=True)) for chosen in permutations(range(count), queries)]
    cheapest = min(sum(float(cost[at]) for at in pair) for pair in pairs)
    found = match(CONFIG, logits[0], predicted[0], label["class_labels"], wanted)
    assert len(found[0]) == min(queries, count)
    assert float(cost[found].sum()) == pytest.approx(cheapest, abs=1e-5)


@pytest.mark.parametrize("counts", [(3, 0, 2), (0, 0, 0), (0, 1, 0), (1, 9, 4), (6, 6, 6)])
def test_loss_matching_and_gradients_are_the_references(counts):
    from transformers.loss.loss_for_object_detection import HungarianMatcher

    for _ in range(5):
        (logits, predicted), labels = predictions(3, 6), objects(*counts)
        matcher = HungarianMatcher(CONFIG.class_cost, CONFIG.bbox_cost, CONFIG.giou_cost)
        for i, want in enumerate(matcher({"logits": logits, "pred_boxes": predicted}, labels)):
            got = match(CONFIG, logits[i], predicted[i], labels[i]["class_labels"], labels[i]["boxes"])
            assert all(map(torch.equal, got, want))
        results = []
        for loss in (reference_loss, lambda *given: set_loss(CONFIG, *given)):
            leaves = logits.clone().requires_grad_(), predicted.clone().requires_grad_()
            total, parts = loss(*leaves, labels)
            total.backward()
            results.append({**parts, "total": total, "d logits": leaves[0].grad, "d boxes": leaves[1].grad})
        torch.testing.assert_close(results[1], results[0])


def test_layers_before_the_last_count_as_it_does():
    layers, labels = [predictions(3, 6) for _ in range(3)], objects(2, 0, 3)
    logits, predicted = (torch.stack(x) for x in zip(*layers, strict=True))
    want = reference_loss(*layers[-1], labels, outputs_class=logits, outputs_coord=predicted)
    torch.testing.assert_close(set_loss(CONFIG, *layers[-1], labels, layers[:-1]), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_loss_is_formed_in_at_least_float32(dtype):
    (logits, predicted), labels = predictions(3, 6), objects(2, 0, 7)
    logits, predicted = logits.to(dtype), predicted.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    got, parts = set_loss(CONFIG, logits.requires_grad_(), predicted, labels)
    want, _ = reference_loss(logits.float(), predicted.float(), labels)
    assert {part.dtype for part in parts.values()} == {got.dtype} == {wide}
    torch.testing.assert_close(got.float(), want)
    got.backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_a_model_that_has_diverged_has_a_loss_that_says_so():
    (logits, predicted), labels = predictions(2, 6), objects(2, 3)
    logits[0, 1], predicted[1, 2] = torch.nan, torch.nan
    assert set_loss(CONFIG, logits, predicted, labels)[0].isnan()


@pytest.mark.nohook
def test_wrong_labels_are_refused_with_a_sentence():
    (logits, predicted), right = predictions(2, 6), objects(2, 3)

    def refused(message, *labels):
        with pytest.raises(ValueError, match=message):
            set_loss(CONFIG, logits, predicted, list(labels))

    def changed(i, **entries):
        return [label | entries if at == i else label for at, label in enumerate(right)]

    refused("labels: expected a list of 2 mappings .* got 1", right[0])
    with pytest.raises(ValueError, match=r"labels: expected a list of 2 mappings .* got dict"):
        set_loss(CONFIG, logits, predicted, right[0])
    refused(
        r'labels\[1\]: expected tensors "class_labels" and "boxes"; got .*class_labels',
        right[0],
        {"class_labels": torch.ones(2)},
    )
    refused(
        r"labels\[0\]\['class_labels'\]: expected integers .* got torch.float32 \(2,\)", *changed(0, class_labels=torch.ones(2))
    )
    refused(
        r"labels\[0\]\['class_labels'\]: expected classes from 0 to 3; got \[4, 0\]",
        *changed(0, class_labels=torch.tensor([4, 0])),
    )
    refused(r"labels\[1\]\['boxes'\]: expected floats \(3, 4\).* got torch.float32 \(2, 4\)", *changed(1, boxes=boxes(2)))
    for wrong in ([10.0, 10, 20, 20], [0.5, 0.5, 0.0, 0.1], [0.5, -0.1, 0.2, 0.2], [0.5, torch.nan, 0.2, 0.2]):
        place = torch.cat([boxes(2), torch.tensor([wrong])])
        refused(
            r"labels\[1\]\['boxes'\]: expected centre x and y.* each from 0 to 1 and no side 0; got \[",
            *changed(1, boxes=place),
        )
    with pytest.raises(ValueError, match=r"sizes: expected \(height, width\) of each of the 2 pictures; got \[\(3, 4\)\]"):
        DetectionOutput(logits, predicted, logits).detections([(3, 4)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_detections_are_those_of_the_references_processor(dtype):
    from transformers import DetrImageProcessorPil

    logits, predicted = (x.to(dtype) for x in predictions(3, 11))
    sizes = [(480, 640), (333, 500), (1024, 768)]
    given = SimpleNamespace(logits=logits.float(), pred_boxes=predicted.float())
    ours, output = 0, DetectionOutput(logits, predicted, logits)
    for threshold in (0.5, 0.0):
        want = DetrImageProcessorPil().post_process_object_detection(given, threshold, sizes)
        for found, theirs in zip(output.detections(sizes, threshold), want, strict=True):
            torch.testing.assert_close(vars(found), theirs)
            ours += len(found.scores)
    assert 33 < ours < 66
    same = output.detections(torch.tensor(sizes), 0.0)
    assert torch.equal(same[1].boxes, output.detections(sizes, 0.0)[1].boxes)


def test_what_is_at_the_threshold_is_not_above_it():
    output = DetectionOutput(*predictions(1, 1), torch.zeros(1))
    (score,) = output.detections([(4, 4)], 0.0)[0].scores.tolist()
    assert len(output.detections([(4, 4)], score)[0].scores) == 0


# ---- The models


YOLOS, DETR, LEARNED = (
    next(system for system in SYSTEMS if system.name == name and all(change in system.changes for change in changes))
    for name, changes in (
        ("YolosForObjectDetection", ()),
        ("DetrForObjectDetection", ()),
        ("DetrForObjectDetection", ("position_embedding_type",)),
    )
)


@pytest.fixture(params=[YOLOS, DETR], ids=str)
def pair(request, tmp_path):
    return Pair(request.param, tmp_path)


@pytest.mark.parametrize("size", [(40, 24), (24, 64), (33, 50), (8, 8)])
def test_yolos_reads_pictures_of_any_size(size, tmp_path):
    pair, pixels = Pair(YOLOS, tmp_path), torch.randn(2, 3, *size)
    labels = OBJECTS["labels"][::2]
    results = []
    for model, names in (
        (pair.reference, ("vit.embeddings.position_embeddings", "vit.encoder.interpolation.mid_position_embeddings")),
        (pair.ours, ("position_embedding", "mid_position_embedding")),
    ):
        output = model(pixel_values=pixels, labels=labels)
        output.loss.backward()
        results.append([output.logits, output.pred_boxes, output.loss, *(model.get_parameter(name).grad for name in names)])
    torch.testing.assert_close(results[1], results[0], **CLOSE)


@torch.no_grad()
def test_detr_does_not_see_what_pads_a_picture(tmp_path):
    model = Pair(DETR, tmp_path).ours
    inputs = tiny.inputs("DetrForObjectDetection")
    batch = model(**inputs)
    alone = model(inputs["pixel_values"][:1])  # the first has no padding
    torch.testing.assert_close(alone.pred_boxes, batch.pred_boxes[:1], **CLOSE)
    torch.testing.assert_close(alone.logits, batch.logits[:1], **CLOSE)
    boolean = model(inputs["pixel_values"], inputs["pixel_mask"].bool())
    assert torch.equal(boolean.logits, batch.logits)
    assert not torch.allclose(model(inputs["pixel_values"]).logits[1:], batch.logits[1:], atol=1e-3)


@pytest.mark.slow
def test_detectors_learn_from_nothing_to_find_objects(tmp_path):
    """Three bright rectangles of two classes in two pictures; and the reference, given the weights, finds the same."""
    pixels, where = 0.2 * torch.randn(2, 3, 64, 96), [[16, 48, 0, 48], [8, 24, 60, 84], [42, 54, 10, 38]]
    for picture, channel, (top, bottom, left, right) in zip((0, 1, 1), (1, 0, 1), where, strict=True):
        pixels[picture, channel, top:bottom, left:right] += 2
    scale = torch.tensor([96.0, 64, 96, 64])
    places = torch.tensor([[(x + w) / 2, (y + h) / 2, w - x, h - y] for y, h, x, w in where]) / scale
    labels = [
        {"class_labels": torch.tensor([1]), "boxes": places[:1]},
        {"class_labels": torch.tensor([0, 1]), "boxes": places[1:]},
    ]
    for name, changes in (("Yolos", {"image_size": [64, 96], "patch_size": 16}), ("Detr", {"dropout": 0.0})):
        name = f"{name}ForObjectDetection"
        tiny.reference(name, **changes).save_pretrained(tmp_path / name)
        model = type(hw.load(tmp_path / name))(hw.load(tmp_path / name).config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(300):
            optimizer.zero_grad()
            model(pixels, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        with torch.no_grad():
            output = model.eval()(pixels, labels=labels)
        assert output.loss < 0.5
        for found, label in zip(output.detections([(64, 96)] * 2), labels, strict=True):
            best = giou(corners(label["boxes"])[:, None] * scale, found.boxes).max(-1)
            assert len(found.labels) == len(label["boxes"])
            assert bool((best.values > 0.8).all())
            assert torch.equal(found.labels[best.indices], label["class_labels"])
        hw.save(model, tmp_path / "trained")
        theirs = type(tiny.reference(name)).from_pretrained(tmp_path / "trained")(pixels)
        torch.testing.assert_close(output.pred_boxes, theirs.pred_boxes, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_finds_the_same(pair, dtype):
    inputs, size = pair.system.inputs(), [(100, 100)] * 3
    want = pair.ours(**inputs)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    got = pair.ours.to(dtype)(**inputs, labels=OBJECTS["labels"])
    assert got.pred_boxes.dtype == dtype
    assert (got.pred_boxes - want.pred_boxes).abs().mean() < 0.02
    assert got.loss.dtype == torch.float32
    assert {found.boxes.dtype for found in got.detections(size)} == {torch.float32}


# ---- The backbone's two layouts


def as_timm(name: str) -> str:
    """A tensor of transformers' ResNet as timm has it."""
    *before, rest = name.partition("conv_encoder.model.")
    if before == ["", ""] or not before[1]:
        return name
    parts = rest.split(".")
    kind = {"convolution": ("conv", "downsample.0"), "normalization": ("bn", "downsample.1")}[parts[-2]]
    if parts[0] == "embedder":
        new = f"{kind[0]}1"
    elif parts[5] == "shortcut":
        new = f"layer{int(parts[2]) + 1}.{parts[4]}.{kind[1]}"
    else:
        new = f"layer{int(parts[2]) + 1}.{parts[4]}.{kind[0]}{int(parts[6]) + 1}"
    return "".join([*before, f"{new}.{parts[-1]}"])


@pytest.fixture(scope="module")
def timm(tmp_path_factory):
    """A folder in the layout of facebook/detr-resnet-50, with ResNet-18, and the reference's model of the same numbers."""
    shape = RESNET | {"hidden_sizes": [64, 128, 256, 512], "embedding_size": 64, "depths": [2, 2, 2, 2], "layer_type": "basic"}
    folder = tmp_path_factory.mktemp("timm")
    theirs = tiny.reference("DetrForObjectDetection", backbone_config=shape)
    theirs.save_pretrained(folder)
    weights = {as_timm(name): x for name, x in load_file(folder / "model.safetensors").items()}
    weights["model.backbone.conv_encoder.model.bn1.num_batches_tracked"] = torch.tensor(7)
    save_file(weights, folder / "model.safetensors")
    entries = json.loads((folder / "config.json").read_text("utf-8"))
    entries |= {"use_timm_backbone": True, "backbone": "resnet18", "backbone_config": None, "dilation": False}
    (folder / "config.json").write_text(json.dumps(entries), "utf-8")
    return folder, theirs, weights


@torch.no_grad()
def test_timms_layout_is_read_and_written(timm, tmp_path):
    folder, theirs, weights = timm
    model, inputs = hw.load(folder), tiny.inputs("DetrForObjectDetection")
    torch.testing.assert_close(model(**inputs).logits, theirs(**inputs).logits, **CLOSE)
    assert "model.backbone.conv_encoder.model.layer2.0.downsample.1.running_var" in weights
    hw.save(model, tmp_path)
    wrote = load_file(tmp_path / "model.safetensors")
    assert wrote.keys() == {name for name in weights if not name.endswith("tracked")}
    assert all(torch.equal(wrote[name], weights[name]) for name in wrote)
    entries = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert (entries["use_timm_backbone"], entries["backbone"], entries["backbone_config"]) == (True, "resnet18", None)
    assert torch.equal(hw.load(tmp_path)(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
@pytest.mark.parametrize("stride", [32, 16])
def test_timms_layout_as_transformers_5_speaks_of_it(timm, tmp_path, stride):
    folder, theirs, weights = timm
    save_file(weights, tmp_path / "model.safetensors")
    entries = json.loads((folder / "config.json").read_text("utf-8"))
    for name in ("use_timm_backbone", "backbone"):
        del entries[name]
    named = {"model_type": "timm_backbone", "backbone": "resnet18.a1_in1k", "out_indices": [1, 2, 3, 4], "num_channels": 3}
    entries["backbone_config"] = named | {"features_only": True, "output_stride": stride}
    (tmp_path / "config.json").write_text(json.dumps(entries), "utf-8")
    model, inputs = hw.load(tmp_path), tiny.inputs("DetrForObjectDetection")
    assert model.backbone(inputs["pixel_values"]).shape[2:] == (96 // stride, 128 // stride)
    assert torch.allclose(model(**inputs).logits, theirs(**inputs).logits, atol=1e-4) == (stride == 32)
    hw.save(model, tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text("utf-8"))
    assert again["backbone_config"] == entries["backbone_config"]
    assert again["use_timm_backbone"] is False  # transformers 4 refuses both


def test_the_names_of_a_published_file():
    """Some of facebook/detr-resnet-50's, in its two revisions."""
    from headwise.models.detr.checkpoint import KEYS

    with torch.device("meta"):
        timms, own = (
            DetrForObjectDetection(DetrConfig()),
            DetrForObjectDetection(DetrConfig(backbone_config={}, use_timm_backbone=False)),
        )
    root, places = "model.backbone.conv_encoder.model", KEYS.places(timms)
    for name in (
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.downsample.0.weight",
        "layer3.5.bn3.bias",
        "layer4.2.conv2.weight",
    ):
        assert f"{root}.{name}" in places
    for name in ("embedder.embedder.convolution.weight", "encoder.stages.2.layers.5.layer.2.normalization.bias"):
        assert f"{root}.{name}" in KEYS.places(own)
    # 53 convolutions, each with the four vectors of a norm; the rest is counted in the reference's file.
    assert len([name for name in places if name.startswith(root)]) == 53 * 5
    assert {as_timm(name) for name in KEYS.places(own)} == places.keys()


@torch.no_grad()
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_dilated_stage_sees_at_every_second_place_what_it_saw(block):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 3], layer_type=block)
    strided, dilated = ResNet(config), ResNet(config, dilated=True)
    tiny.randomise(strided)
    dilated.load_state_dict(strided.state_dict())
    pixels = torch.randn(2, 3, 96, 160)
    want, got = strided(pixels), dilated(pixels)
    assert got.shape == (2, 20, 6, 10)
    torch.testing.assert_close(got[:, :, ::2, ::2], want, rtol=1e-4, atol=1e-3 * float(want.abs().max()))


def test_detr_begins_as_its_authors_do():
    """Layers by Glorot's rule, whose deviation is sqrt(2 / (in + out)), tables of positions even in [0, 1)."""
    model = DetrForObjectDetection(DetrConfig(backbone="resnet18", encoder_layers=1, position_embedding_type="learned"))
    for layer in (model.encoder.layers[0], model.decoder.layers[0]):
        assert layer.feed_forward.expand.weight.std().item() == pytest.approx((2 / (256 + 2048)) ** 0.5, rel=0.01)
    for table in (model.position.row.weight, model.position.column.weight):
        assert 0 <= table.min() < 0.01 < 0.99 < table.max() < 1


def test_the_stem_and_the_first_stage_stay_as_they_are(timm):
    frozen = {"backbone.stem.", "backbone.stages.0."}
    for model in (hw.load(timm[0]), DetrForObjectDetection(DetrConfig(backbone="resnet18", d_model=32))):
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad != any(name.startswith(start) for start in frozen), name
        assert not any("norm" in name for name, _ in model.backbone.named_parameters())


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"backbone": "vit_small"}, "backbone: expected one of resnet18, .*; got 'vit_small'"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": ["resnet50"]}}, "backbone: expected one of"),
        ({"backbone_kwargs": {"in_chans": 0}}, "num_channels: expected an integer from 1"),
        ({"backbone_config": {"model_type": "swin"}}, "got 'swin'"),
        ({"backbone_config": {"model_type": "resnet"}, "dilation": True}, "dilation True"),
        ({"use_timm_backbone": False, "backbone": "microsoft/resnet-50"}, "got None, backbone 'microsoft/resnet-50'"),
        ({"backbone_config": {"model_type": "resnet", "out_features": ["stage3"]}}, "out_features: .* got .*'stage3'"),
        ({"backbone_config": {"model_type": "resnet", "out_indices": [2, 3]}}, r"out_indices: .* got \[2, 3\]"),
        ({"backbone_config": {"model_type": "timm_backbone", "out_indices": [1, 2]}}, r"out_indices: .* got \[1, 2\]"),
        ({"backbone_config": {"model_type": "timm_backbone", "output_stride": 8}}, "output_stride: .* got 8"),
        ({"backbone_config": {"model_type": "resnet", "depths": [1, 1]}}, "depths and hidden_sizes: .* got"),
        ({"backbone_config": {"model_type": "resnet", "depths": [400, 400, 400, 1]}}, "at most 1000 blocks"),
        ({"backbone_config": {"model_type": "resnet", "depths": [3, 4, -6, 3]}}, "depths: expected a list"),
        ({"backbone_config": {"model_type": "resnet", "hidden_sizes": [1, 2, 3, 4]}}, "hidden_sizes: expected at least 4"),
        ({"backbone_config": {"model_type": "resnet", "layer_type": "wide"}}, "layer_type: expected 'basic' or 'bottleneck'"),
        ({"d_model": 6}, "d_model: expected a multiple of 4"),
        ({"class_cost": 0, "bbox_cost": 0, "giou_cost": 0}, "nothing can be matched"),
        ({"eos_coefficient": -1}, "eos_coefficient: expected a number from 0; got -1"),
        ({"decoder_layers": 5000}, "decoder_layers: expected an integer from 1 to 1000"),
    ],
    ids=str,
)
def test_a_backbone_we_do_not_know_is_refused(entries, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr", **entries}), "utf-8")
    with pytest.raises(CheckpointError, match=f"makes no DetrForObjectDetection: .*{message}"):
        hw.load(tmp_path)


def test_more_layers_than_a_file_has_tensors_are_refused_before_they_are_built(tmp_path):
    assert DetrConfig().depth == 6 + 6 + 3 + 4 + 6 + 3
    save_file({"bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    stages = {"depths": [500, 400], "hidden_sizes": [8, 8], "model_type": "resnet"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr", "backbone_config": stages}), "utf-8")
    with pytest.raises(CheckpointError, match="holds 1 tensors, too few for 912 layers"):
        hw.load(tmp_path)


def test_yolos_auxiliary_loss_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "yolos", "auxiliary_loss": True}), "utf-8")
    with pytest.raises(CheckpointError, match="auxiliary_loss is True; only False is known here"):
        hw.load(tmp_path)


@pytest.mark.nohook
def test_a_wrong_picture_is_refused_with_a_sentence(tmp_path):
    model = Pair(LEARNED, tmp_path).ours
    with pytest.raises(ValueError, match=r"expected floats \(batch, 3 channels, height, width\), .*\(1, 4, 64, 64\)"):
        model(torch.ones(1, 4, 64, 64))
    with pytest.raises(ValueError, match=r"pixel_mask: expected \(1, 64, 64\), 1 = a real pixel; got \(1, 2, 2\)"):
        model(torch.ones(1, 3, 64, 64), torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="2 x 51 places of features are more than this model's 50 x 50"):
        model(torch.ones(1, 3, 64, 51 * 32))
    assert model(torch.ones(1, 3, 64, 50 * 32)).logits.isfinite().all()
