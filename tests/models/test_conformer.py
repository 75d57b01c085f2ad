"""Conformers that recognise speech, beyond what the parity table says of them."""

import json
from itertools import groupby

import pytest
import tiny
import torch
from parity import CLOSE, Pair, System
from safetensors.torch import load_file, save_file
from test_ctc import collapsed
from test_parity import LETTERS, OF_SOUND
from torch import nn

import headwise as hw
from headwise.models import ctc
from headwise.models.wav2vec2_conformer import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC
from headwise.models.wav2vec2_conformer.spec_augment import spans

WAV2VEC2, PARAKEET = "Wav2Vec2ConformerForCTC", "ParakeetForCTC"
BOTH = pytest.mark.parametrize("name", [WAV2VEC2, PARAKEET])


@pytest.fixture
def pair(tmp_path):
    return lambda name, **changes: Pair(System(name, LETTERS, OF_SOUND, changes), tmp_path)


@torch.no_grad()
@BOTH
def test_the_best_path_is_the_reference_s(pair, name):
    models = pair(name)
    inputs, blank = models.system.inputs(), models.reference.config.pad_token_id
    if name == PARAKEET:
        paths = models.reference.generate(**inputs)
    else:  # which has no way of its own
        paths = models.reference(**inputs).logits.argmax(-1).masked_fill(~next(iter(tiny.rows(name).values())), blank)
    found = ctc.decode(models.ours, **inputs)
    assert [hypothesis.tokens for hypothesis in found] == [collapsed(path, blank) for path in paths.tolist()]
    assert all(hypothesis.ended and hypothesis.tokens for hypothesis in found)
    wide = ctc.decode(models.ours, width=8, **inputs)
    assert all(more.score >= one.score for more, one in zip(wide, found, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("factor", [2, 8])
def test_parakeet_hears_alone_what_it_hears_in_a_batch(pair, factor):
    """Nothing looks past a sound's end, whatever stands there."""
    models = pair(PARAKEET, encoder_config=tiny.TINY[PARAKEET][1]["encoder_config"] | {"subsampling_factor": factor})
    inputs = models.system.inputs()
    keep = inputs["attention_mask"].bool()
    noisy = inputs["input_features"].masked_fill(~keep[..., None], 7.0)
    together = models.ours(noisy * keep[..., None], keep).logits
    for row, length in enumerate(keep.sum(-1).tolist()):
        alone = models.ours(inputs["input_features"][row : row + 1, :length]).logits[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, **CLOSE)
    frames = models.ours.frame_lengths(keep).tolist()
    assert frames == [-(-length // factor) for length in keep.sum(-1).tolist()]


@torch.no_grad()
def test_what_lies_past_a_sound_s_end_is_not_attended_to(pair):
    """wav2vec 2.0's convolutions do look past it."""
    models = pair(WAV2VEC2)
    inputs = models.system.inputs()
    real = next(iter(tiny.rows(WAV2VEC2).values()))
    with hw.observe(models.ours) as record:
        models.ours(**inputs)
    for call in record.values():
        assert not call.weights().masked_select(~real[:, None, None]).any()


def test_training_hides_parts_and_the_reference_reads_what_was_learned(pair):
    models = pair(WAV2VEC2, mask_time_prob=0.3, mask_time_length=3, mask_feature_prob=0.2, mask_feature_length=4)
    models.outputs_are_equal()
    model = models.ours.train()
    optimizer, before = torch.optim.SGD(model.parameters(), lr=1e-3), model.masked_spec_embed.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        model(**models.system.training_inputs()).loss.backward()
        optimizer.step()
    assert (model.masked_spec_embed != before).any()
    model.eval()
    hw.save(model, models.folder / "trained")
    models.outputs_are_equal(models.read_by_reference(models.folder / "trained"))


def test_hiding_can_be_left(pair):
    kinds = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout")
    rates = dict.fromkeys((*kinds, "conformer_conv_dropout", "layerdrop"), 0.0)
    for hides in (True, False):
        model = pair(WAV2VEC2, mask_time_prob=0.5, mask_time_length=2, apply_spec_augment=hides, **rates).ours.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        inputs = tiny.inputs(WAV2VEC2)
        assert torch.equal(model(**inputs).logits, model(**inputs).logits) is not hides


@pytest.mark.parametrize(("probability", "length", "least"), [(0.3, 5, 0), (0.05, 10, 2), (0.9, 7, 0), (0.0, 3, 0)])
def test_spans_are_hidden_as_the_reference_hides_them(probability, length, least):
    from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import _compute_mask_indices

    lengths, longest, draws = torch.tensor([50, 31, 12, 3]), 50, 300
    real = torch.arange(longest) < lengths[:, None]
    torch.manual_seed(0)
    ours = torch.stack([spans(lengths, longest, probability, length, least) for _ in range(draws)])
    assert not ours[:, ~real].any()
    runs = [len(list(run)) for row in ours.flatten(0, 1).tolist() for hidden, run in groupby(row) if hidden]
    assert min(runs, default=length) >= length
    theirs = torch.stack(
        [
            torch.from_numpy(_compute_mask_indices((4, longest), probability, length, real.long(), least)) & real
            for _ in range(draws)
        ]
    )
    share, wanted = (hidden.float().mean(0).sum(-1) / lengths for hidden in (ours, theirs))
    torch.testing.assert_close(share[:3], wanted[:3], atol=0.03, rtol=0.0)


@pytest.mark.parametrize("changes", [{}, {"position_embeddings_type": "rotary"}])
def test_files_of_every_age_and_of_pretraining_are_read(pair, changes):
    """Older ones call the halves of a weight norm otherwise; the body's have no head, and what pretraining compares with."""
    models = pair(WAV2VEC2, **changes)
    path = models.folder / "theirs" / "model.safetensors"
    held = load_file(path)
    for half, old in enumerate(("weight_g", "weight_v")):
        held = {name.replace(f"parametrizations.weight.original{half}", old): x for name, x in held.items()}
    save_file(held, path, {"format": "pt"})
    again = hw.load(models.folder / "theirs")
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in models.ours.state_dict().items())
    body = {name: x for name, x in held.items() if not name.startswith("lm_head")}
    save_file(body | {"project_q.weight": torch.ones(3, 3), "quantizer.codevectors": torch.ones(1, 3, 3)}, path)
    config = path.with_name("config.json")
    config.write_text(config.read_text("utf-8").replace(WAV2VEC2, "Wav2Vec2ConformerForPreTraining"), "utf-8")
    fresh = hw.load(models.folder / "theirs", architecture=WAV2VEC2)
    assert torch.equal(fresh.encoder.norm.weight, models.ours.encoder.norm.weight)
    assert not torch.equal(fresh.lm_head.weight, models.ours.lm_head.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@BOTH
def test_counters_are_whole_numbers_at_any_precision(pair, name, dtype, tmp_path):
    models = pair(name)
    hw.save(models.ours, tmp_path / "saved", dtype=dtype)
    wrote, read = load_file(tmp_path / "saved" / "model.safetensors"), hw.load(tmp_path / "saved", dtype=dtype).state_dict()
    assert any(x.dtype == torch.int64 for x in wrote.values())
    for x in (*wrote.values(), *read.values()):
        assert x.dtype == (dtype if x.is_floating_point() else torch.int64)


@torch.no_grad()
def test_a_fresh_model_begins_finite():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    for position in ("relative", "rotary", None):
        config = Wav2Vec2ConformerConfig(**sizes, position_embeddings_type=position, conv_dim=[16] * 7)
        model = Wav2Vec2ConformerForCTC(config).eval()
        assert model(torch.randn(2, 1600), labels=torch.tensor([[1, 2], [3, -100]])).loss.isfinite()
        assert model.config.least_samples == 400
        assert model(torch.randn(1, 400)).logits.shape == (1, 1, 32)


# -- at the door


@pytest.mark.nohook
def test_a_wrong_call_is_refused_with_a_sentence(pair):
    sound, spectra = (pair(name).ours for name in (WAV2VEC2, PARAKEET))
    for model, given, message in (
        (
            sound,
            {"input_values": torch.randn(3, 19)},
            r"input_values: expected floats \(batch, at least 20 samples\); got .*19\)",
        ),
        (sound, {"input_values": torch.randn(3, 1, 99)}, "input_values: expected floats"),
        (sound, {"input_values": torch.ones(3, 99, dtype=torch.int16)}, "input_values: expected floats .* got torch.int16"),
        (sound, {"input_values": [0.1] * 99}, "input_values: expected floats .* got a list"),
        (
            sound,
            {"input_values": torch.randn(3, 99), "attention_mask": torch.ones(3, 9)},
            r"attention_mask: expected \(3, 99\), 1 = a real sample; got \(3, 9\)",
        ),
        (
            spectra,
            {"input_features": torch.randn(3, 16, 99)},
            r"input_features: expected floats .*16 mels\); got .*\(3, 16, 99",
        ),
        (spectra, {"input_features": torch.randn(3, 99)}, "input_features: expected floats"),
        (
            spectra,
            {"input_features": torch.randn(3, 99, 16), "attention_mask": torch.ones(3, 9)},
            r"attention_mask: expected \(3, 99\), 1 = a real frame; got \(3, 9\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model(**given)


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        (WAV2VEC2, {"conv_stride": [5]}, "conv_dim, conv_kernel and conv_stride: expected one number per convolution"),
        (WAV2VEC2, {"pad_token_id": 32}, "pad_token_id: expected a token, below 32, as the blank; got 32"),
        (WAV2VEC2, {"position_embeddings_type": "alibi"}, "position_embeddings_type: expected 'relative' or 'rotary' or null"),
        (WAV2VEC2, {"add_adapter": True}, "add_adapter is True; only False is known here"),
        (WAV2VEC2, {"conv_depthwise_kernel_size": 6}, "kernel_size of the convolution: expected an odd number; got 6"),
        (PARAKEET, {"pad_token_id": 33}, "pad_token_id: expected a token, below 33, as the blank; got 33"),
        (PARAKEET, {"encoder_config": 3}, "encoder_config: expected an object; got 3"),
        (PARAKEET, {"encoder_config": {"subsampling_factor": 6}}, "subsampling_factor: expected a power of 2, from 2; got 6"),
        (PARAKEET, {"encoder_config": {"num_mel_bins": 20}}, "num_mel_bins: expected a multiple of 8"),
        (PARAKEET, {"encoder_config": {"hidden_size": "32"}}, "hidden_size: expected an integer"),
        (PARAKEET, {"encoder_config": {"dropout_positions": 0.1}}, "dropout_positions is 0.1; only 0.0 is known here"),
        (PARAKEET, {"encoder_config": {"model_type": "bert"}}, "model_type is 'bert'; only 'parakeet_encoder' is known here"),
    ],
)
def test_settings_that_make_no_model_are_refused(pair, name, entries, message):
    path = pair(name).folder / "theirs" / "config.json"
    said = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(said | entries), "utf-8")
    with pytest.raises(ValueError, match=message):
        hw.load(path.parent)
