"""Pictures and films: sizes other than the table's, divided space and time, pictures made of colours."""

from dataclasses import replace

import pytest
import tiny
import torch
from parity import CLOSE, Pair
from test_parity import SYSTEMS
from torch import nn

import headwise as hw
from headwise.attention.positions import sinusoids
from headwise.models.detr import DetrConfig
from headwise.models.imagegpt import ImageGPTConfig
from headwise.models.timesformer import TimesformerConfig, TimesformerForVideoClassification
from headwise.models.videomae import VideoMAEConfig, VideoMAEForVideoClassification
from headwise.models.vision import resized
from headwise.models.vit import ViTConfig, ViTForImageClassification
from headwise.models.yolos import YolosConfig, YolosForObjectDetection


@pytest.fixture
def pair(request, tmp_path):
    name, changes = request.param if isinstance(request.param, tuple) else (request.param, {})
    system = next(system for system in SYSTEMS if system.name == name)
    return Pair(replace(system, changes=changes), tmp_path)


VIT, VIDEOMAE, TIMESFORMER, IMAGEGPT = (
    "ViTForImageClassification",
    "VideoMAEForVideoClassification",
    "TimesformerForVideoClassification",
    "ImageGPTForCausalImageModeling",
)


@torch.no_grad()
@pytest.mark.parametrize("pair", [VIT], indirect=True)
@pytest.mark.parametrize("size", [(32, 32), (48, 24), (17, 71), (8, 8)])
def test_vit_reads_pictures_of_any_size(pair, size):
    pictures = torch.randn(2, 3, *size)
    want = pair.reference(pictures, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(pair.ours(pictures, interpolate_pos_encoding=True).logits, want, **CLOSE)


def test_a_table_of_positions_is_resized_row_by_row():
    """What depends on columns alone does so still, and rises where it rose; by nearest, cells are repeated."""
    columns = torch.arange(6.0).repeat(4)[None, :, None].expand(1, 24, 2)
    wide = resized(columns, (4, 6), (4, 12), "bicubic").view(4, 12, 2)
    torch.testing.assert_close(wide, wide[:1, :, :1].expand(4, 12, 2))
    assert bool((wide[0, :, 0].diff() > 0).all())
    assert wide[0, [4, 5, 6, 7], 0].mean().item() == pytest.approx(2.5)  # the halves of the two columns in the middle
    flat = resized(columns, (4, 6), (2, 12), "nearest").view(2, 12, 2)
    torch.testing.assert_close(flat[0, :, 0], torch.arange(12) // 2 * 1.0)
    depth = torch.randn(5, 1, 24, 2)
    assert torch.equal(resized(depth, (4, 6), (8, 3), "bicubic")[3], resized(depth[3], (4, 6), (8, 3), "bicubic"))


@torch.no_grad()
@pytest.mark.parametrize("pair", [TIMESFORMER, (TIMESFORMER, {"attention_type": "joint_space_time"})], indirect=True, ids=str)
@pytest.mark.parametrize(("frames", "size"), [(5, (32, 32)), (2, (48, 16)), (3, (24, 40)), (1, (8, 16))])
def test_timesformer_reads_films_of_other_lengths_and_sizes(pair, frames, size):
    """The reference divides time by its configured length: it is given one of the film's, and its own table resized."""
    films, config = torch.randn(2, frames, 3, *size), pair.reference.config
    embeddings = pair.reference.timesformer.embeddings
    nearest = (torch.arange(frames) * config.num_frames / frames).long()
    embeddings.time_embeddings = nn.Parameter(embeddings.time_embeddings[:, nearest])
    config.num_frames, config.image_size = frames, size[1]
    torch.testing.assert_close(pair.ours(films).logits, pair.reference(films).logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("pair", [(TIMESFORMER, {"attention_type": "space_only"})], indirect=True)
def test_space_only_averages_over_frames(pair):
    """As the authors' program does; the reference gives every frame's last states to its callers."""
    films = pair.system.inputs()["pixel_values"]
    body = pair.reference.timesformer
    frames = body.encoder(body.embeddings(films)).last_hidden_state.unflatten(0, films.shape[:2])
    want = pair.reference.classifier(body.layernorm(frames.mean(dim=1))[:, 0])
    torch.testing.assert_close(pair.ours(films).logits, want, **CLOSE)
    hw.save(pair.ours, pair.folder / "ours")
    again = type(pair.reference).from_pretrained(pair.folder / "ours")
    assert torch.equal(again(films).logits, pair.reference(films).logits)


@torch.no_grad()
@pytest.mark.parametrize("pair", [TIMESFORMER], indirect=True)
def test_time_and_space_have_their_own_heads(pair):
    films = pair.system.inputs()["pixel_values"]
    batch, frames, heads, patches = 3, 3, 4, 16
    with hw.observe(pair.ours) as record:
        pair.ours(films)
    assert list(record) == [f"encoder.layers.{i}.{kind}_attention" for i in range(2) for kind in ("temporal", "spatial")]
    time, space = record["encoder.layers.0.temporal_attention"], record["encoder.layers.0.spatial_attention"]
    assert time.weights().shape == (batch, patches, heads, frames, frames)
    assert space.weights().shape == (batch, frames, heads, 1 + patches, 1 + patches)
    assert time.head_outputs.shape == (batch, patches, heads, frames, 8)
    measured = hw.statistics(record)
    assert measured["encoder.layers.0.temporal_attention"].received.shape == (batch, patches, heads, frames)
    assert measured["encoder.layers.0.temporal_attention"].queries.tolist() == [batch * patches * frames] * heads
    assert measured["encoder.layers.0.spatial_attention"].top_keys.shape == (batch, frames, heads, 1 + patches, 3)
    # In the first layer a frame's heads over space see that frame alone, but through time; over time a patch sees itself alone.
    films[1, 2, :, 8:16, 16:24] += 1.0  # of the second film, the last frame, the patch in row 1, column 2
    with hw.observe(pair.ours) as moved:
        pair.ours(films)
    changed = (moved["encoder.layers.0.temporal_attention"].key != time.key).any(-1).any(2)
    assert changed.nonzero().tolist() == [[1, 6, 2]]
    changed = (moved["encoder.layers.0.spatial_attention"].key != space.key).any(-1).any(2)
    assert changed.nonzero().tolist() == [[1, frame, 1 + 6] for frame in range(frames)]


@pytest.mark.parametrize("pair", [TIMESFORMER, (TIMESFORMER, {"attention_type": "joint_space_time"})], indirect=True, ids=str)
def test_stochastic_depth_draws_as_the_reference_does(pair):
    """Whose configuration takes no rate between 0 and 1: its modules are exchanged."""
    from transformers.models.timesformer.modeling_timesformer import TimesformerDropPath

    hw.save(pair.ours, pair.folder / "ours")
    model = type(pair.ours)(replace(pair.ours.config, drop_path_rate=0.4))
    model.load_state_dict(pair.ours.state_dict())
    for rate, layer in zip((0.0, 0.4), pair.reference.timesformer.encoder.layer, strict=True):
        layer.drop_path = TimesformerDropPath(rate) if rate else nn.Identity()
    losses = []
    for one in (pair.reference.train(), model.train()):
        torch.manual_seed(3)
        losses.append(one(**pair.system.training_inputs()).loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] != pytest.approx(pair.ours(**pair.system.training_inputs()).loss.item(), abs=1e-3)


@pytest.mark.parametrize("pair", [IMAGEGPT], indirect=True)
def test_a_picture_is_generated_colour_by_colour(pair):
    """As many colours as there are places, from the start alone, which is never said; the same as the reference's."""
    start = torch.full((2, 1), 16)
    places = pair.ours.config.n_positions
    found = hw.generate(pair.ours, start, max_new_tokens=places)
    theirs = pair.reference.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=places, do_sample=False)
    assert [picture.tokens for picture in found] == theirs[:, 1:].tolist()
    drawn = hw.generate(pair.ours, start, search=hw.generation.Sample(top_k=5, seed=0), max_new_tokens=2 * places)
    assert [len(picture.tokens) for picture in drawn] == [places, places]
    assert {token for picture in drawn for token in picture.tokens} <= set(range(16))
    assert drawn[0].tokens != drawn[1].tokens


@pytest.mark.parametrize("name", ["ViTModel", "YolosModel", "VideoMAEModel", "TimesformerModel"])
def test_a_published_body_gets_a_fresh_head(name, tmp_path, caplog):
    import transformers

    heads = {"ViTModel": "ForImageClassification", "YolosModel": "ForObjectDetection"}
    with_head = name.replace("Model", heads.get(name, "ForVideoClassification"))
    more = {"use_mask_token": True} if name == "ViTModel" else {}  # of pretraining
    body = getattr(transformers, name)(tiny.configuration(with_head), **more)
    tiny.randomise(body)
    body.save_pretrained(tmp_path)
    model = hw.load(tmp_path, architecture=with_head)
    assert ("bbox_predictor" if name == "YolosModel" else "classifier") in caplog.text
    pixels = tiny.inputs(with_head)["pixel_values"]
    assert model(pixels).logits.shape == ((3, 5, 3) if name == "YolosModel" else (3, 5))
    seen = []
    model.encoder.register_forward_hook(lambda module, given, x: seen.append(x))
    model.encoder.norm.register_forward_hook(lambda module, given, x: seen.append(x))
    with torch.no_grad():
        model(pixels)
        torch.testing.assert_close(seen[0], body.eval()(pixels).last_hidden_state, **CLOSE)


@pytest.mark.parametrize(
    "config", [ViTConfig, YolosConfig, DetrConfig, ImageGPTConfig, TimesformerConfig, VideoMAEConfig], ids=lambda x: x.__name__
)
def test_defaults_are_the_references(config):
    import transformers

    theirs = getattr(transformers, config.__name__)().to_dict()
    own = {"id2label", "use_timm_backbone", "backbone", "backbone_config", "backbone_kwargs"}  # written otherwise
    ours = {name: value for name, value in config().to_entries().items() if name not in own}
    assert ours == {name: theirs[name] for name in ours}


SHALLOW = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 256, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (ViTForImageClassification, ViTConfig),
        (YolosForObjectDetection, YolosConfig),
        (VideoMAEForVideoClassification, VideoMAEConfig),
        (TimesformerForVideoClassification, TimesformerConfig),
    ],
)
def test_what_is_learned_begins_with_the_deviation_of_the_config(build, config):
    """Projections, convolutions, tokens and tables of positions, from N(0, initializer_range^2), their biases at 0."""
    for name, parameter in build(config(**SHALLOW, image_size=64, initializer_range=0.5)).named_parameters():
        if "norm" in name or name.endswith("bias") or name == "time_embedding":
            assert set(parameter.flatten().tolist()) == {1.0 if "norm" in name and name.endswith("weight") else 0.0}, name
        else:
            assert parameter.std().item() == pytest.approx(0.5, rel=0.25), name  # of 256 numbers: 5.6 deviations


def test_every_norm_has_the_epsilon_of_the_config():
    """But VideoMAE's of the mean, which is torch's own."""
    for model, own in (
        (TimesformerForVideoClassification(TimesformerConfig(**SHALLOW, layer_norm_eps=0.5)), set()),
        (VideoMAEForVideoClassification(VideoMAEConfig(**SHALLOW, layer_norm_eps=0.5)), {1e-5}),
    ):
        assert {part.eps for part in model.modules() if isinstance(part, nn.LayerNorm)} == {0.5} | own
        assert not own or model.norm.eps == 1e-5


@torch.no_grad()
def test_late_positions_of_a_film_are_reckoned_in_float64():
    """The 1568th too: an angle that large has lost digits in float32."""
    model, seen = VideoMAEForVideoClassification(VideoMAEConfig(**SHALLOW)), []
    model.patches.projection.weight.zero_()
    model.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(torch.zeros(1, 16, 3, 224, 224))
    assert torch.equal(seen[0][0], sinusoids(torch.arange(1568), 256, torch.float64).float())


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("pair", "pixels", "said"),
    [
        (VIT, (2, 3, 32, 40), r"expected pictures of \(32, 32\) pixels; got \(32, 40\)"),
        (VIT, (2, 1, 32, 32), r"expected floats \(batch, 3 channels, height, width\), at least \(8, 8\) .* \(2, 1, 32, 32\)"),
        (VIT, (3, 32, 32), r"expected floats \(batch, 3 channels, height, width\), at least \(8, 8\) .* \(3, 32, 32\)"),
        (VIDEOMAE, (2, 3, 3, 32, 32), r"expected films .*= \(4, 3, 32, 32\); got \(3, 3, 32, 32\)"),
        (VIDEOMAE, (4, 3, 32, 32), r"expected floats \(batch, frames, 3 channels, height, width\)"),
        (TIMESFORMER, (2, 3, 4, 32, 32), r"expected floats \(batch, frames, 3 channels, height, width\)"),
        (TIMESFORMER, (3, 3, 32, 32), r"expected floats \(batch, frames, 3 channels, height, width\)"),
    ],
    indirect=["pair"],
)
def test_pictures_that_do_not_fit_are_refused_with_a_sentence(pair, pixels, said):
    with pytest.raises(ValueError, match=said):
        pair.ours(torch.zeros(pixels))


@pytest.mark.nohook
def test_settings_that_make_no_model_are_refused_with_a_sentence():
    for make, settings, said in (
        (ViTConfig, {"image_size": [32]}, "image_size: expected one number or"),
        (ViTConfig, {"image_size": 8}, "image_size: expected at least one patch"),
        (ViTConfig, {"patch_size": 0}, "patch_size"),
        (ViTConfig, {"id2label": {}}, "id2label"),
        (VideoMAEConfig, {"num_frames": 1}, "num_frames: expected at least one patch of 2 frames"),
        (TimesformerConfig, {"attention_type": "divided"}, "attention_type"),
        (TimesformerConfig, {"drop_path_rate": 1}, "drop_path_rate"),
    ):
        with pytest.raises(ValueError, match=said):
            make(**settings)
