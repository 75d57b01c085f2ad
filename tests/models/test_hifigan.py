"""Spectrograms become the sound that the reference makes of them."""

import json
import pickle

import pytest
import tiny
import torch
from parity import CLOSE, stored

import headwise as hw
from headwise.models import hifigan
from headwise.models.fastspeech2_conformer import with_hifigan
from headwise.models.synthesis import synthesise

NAMES = ("SpeechT5HifiGan", "FastSpeech2ConformerHifiGan")
SIZES = {"model_in_dim": 12, "upsample_initial_channel": 16, "upsample_rates": [3, 2], "upsample_kernel_sizes": [7, 4]}
SIZES |= {"resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3], [1, 2, 3]]}
OTHER = {"normalize_before": False, "leaky_relu_slope": 0.3, "resblock_kernel_sizes": [7], "resblock_dilation_sizes": [[2]]}
OTHER |= {"upsample_rates": [2, 2, 5], "upsample_kernel_sizes": [2, 4, 7]}
SPECTROGRAMS = torch.randn(3, 11, 12, generator=torch.Generator().manual_seed(0))


def reference(name, **changes):
    import transformers

    model = getattr(transformers, name)(getattr(transformers, f"{name}Config")(**SIZES | changes))
    tiny.randomise(model)
    with torch.no_grad():
        model.scale.abs_().add_(0.5)
    return model.eval()


@pytest.fixture(params=[(name, changes) for name in NAMES for changes in ({}, OTHER)], ids=str)
def pair(request, tmp_path):
    name, changes = request.param
    theirs = reference(name, **changes)
    theirs.save_pretrained(tmp_path / "theirs")
    return theirs, hw.load(tmp_path / "theirs")


@torch.no_grad()
def test_the_sound_is_the_reference_s(pair):
    theirs, ours = pair
    for spectrogram in (SPECTROGRAMS, SPECTROGRAMS[0]):
        sound = ours(spectrogram)
        torch.testing.assert_close(sound, theirs(spectrogram), **CLOSE)
        assert sound.shape == (*spectrogram.shape[:-2], 11 * ours.config.hop_length)
    assert 0.1 < ours(SPECTROGRAMS).abs().mean() < 0.9


@torch.no_grad()
def test_kernels_longer_by_odd_numbers_leave_a_sample_more(tmp_path):
    theirs = reference(NAMES[0], upsample_kernel_sizes=[6, 5])
    theirs.save_pretrained(tmp_path)
    torch.testing.assert_close(hw.load(tmp_path)(SPECTROGRAMS), theirs(SPECTROGRAMS), **CLOSE)


def test_every_gradient_is_the_reference_s(pair, tmp_path):
    theirs, ours = pair
    for model in pair:
        (model(SPECTROGRAMS) ** 2).mean().backward()
        for parameter in model.parameters():
            parameter.data = parameter.grad
    theirs.save_pretrained(tmp_path / "their gradients")
    hw.save(ours, tmp_path / "our gradients")
    torch.testing.assert_close(stored(tmp_path / "our gradients"), stored(tmp_path / "their gradients"), **CLOSE)
    assert all(bool(gradient.any()) for gradient in stored(tmp_path / "our gradients").values())


@torch.no_grad()
def test_what_we_write_the_reference_reads(pair, tmp_path):
    theirs, ours = pair
    hw.save(ours, tmp_path / "ours")
    torch.testing.assert_close(stored(tmp_path / "ours"), stored(tmp_path / "theirs"), atol=0, rtol=0)
    said, kept = (json.loads((tmp_path / whose / "config.json").read_text("utf-8")) for whose in ("theirs", "ours"))
    assert {name: kept[name] for name in said} == said
    model, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(model.eval()(SPECTROGRAMS), theirs(SPECTROGRAMS))


@pytest.mark.parametrize(("name", "count"), [(NAMES[0], 12_656_257), (NAMES[1], 13_926_017)])
def test_parameters_of_the_published_size(name, count):
    with torch.device("meta"):
        model = getattr(hifigan, name)(getattr(hifigan, f"{name}Config")())
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.config.hop_length == 256


def test_a_vocoder_is_pickled(pair):
    assert torch.equal(pickle.loads(pickle.dumps(pair[1]))(SPECTROGRAMS), pair[1](SPECTROGRAMS))


@pytest.mark.nohook
@torch.no_grad()
def test_it_is_one_graph_for_any_batch_and_length(tmp_path):
    reference(NAMES[0]).save_pretrained(tmp_path)
    model, anything = hw.load(tmp_path), torch.cat([SPECTROGRAMS] * 3, dim=1)[:2, :29]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(SPECTROGRAMS), model(SPECTROGRAMS), **CLOSE)
    shapes = {"spectrogram": {0: torch.export.Dim("batch"), 1: torch.export.Dim("frames")}}
    program = torch.export.export(model, (SPECTROGRAMS,), dynamic_shapes=shapes).module()
    torch.testing.assert_close(program(anything), model(anything), **CLOSE)


@torch.no_grad()
def test_at_half_precision_it_takes_what_is_given_at_full(tmp_path):
    reference(NAMES[0]).save_pretrained(tmp_path)
    model = hw.load(tmp_path)
    sound = model(SPECTROGRAMS)
    half = model.bfloat16()(SPECTROGRAMS)
    assert half.dtype == torch.bfloat16
    assert (half - sound).norm() < 0.1 * sound.norm()


@pytest.mark.nohook
def test_what_is_no_spectrogram_is_refused_with_a_sentence(tmp_path):
    reference(NAMES[0]).save_pretrained(tmp_path)
    for wrong in (SPECTROGRAMS.mT, SPECTROGRAMS[None], SPECTROGRAMS[0, 0], SPECTROGRAMS[:, :0]):
        with pytest.raises(
            ValueError, match=r"spectrogram: expected \(frames, 12\) or \(batch, frames, 12\); got torch.float32"
        ):
            hw.load(tmp_path)(wrong)


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"upsample_rates": [3]}, "expected as many, at least as large"),
        ({"upsample_rates": [9, 2]}, "expected as many, at least as large"),
        ({"upsample_initial_channel": 3}, "expected at least 4, to be halved 2 times; got 3"),
        ({"resblock_kernel_sizes": [3, 4]}, "expected as many, odd sizes"),
        ({"resblock_dilation_sizes": [[1]]}, "expected as many, odd sizes"),
    ],
    ids=str,
)
def test_a_config_that_makes_no_vocoder_is_refused_with_a_sentence(changes, said):
    with pytest.raises(ValueError, match=said):
        hifigan.SpeechT5HifiGanConfig(**SIZES | changes)


@torch.no_grad()
def test_a_synthesiser_and_its_vocoder_come_from_one_folder(tmp_path):
    import transformers

    parts = {
        "model_config": tiny.configuration("FastSpeech2ConformerModel").to_dict(),
        "vocoder_config": transformers.FastSpeech2ConformerHifiGanConfig(**SIZES).to_dict(),
    }
    theirs = transformers.FastSpeech2ConformerWithHifiGan(transformers.FastSpeech2ConformerWithHifiGanConfig(**parts)).eval()
    tiny.randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, ids = hw.load(tmp_path / "theirs"), torch.tensor([[5, 9, 17, 4, 30]])
    want, got = theirs(ids), ours(ids)
    torch.testing.assert_close(got.waveform, want.waveform, **CLOSE)
    torch.testing.assert_close(got.spectrogram, want.spectrogram, **CLOSE)
    assert got.waveform.shape == (1, 6 * got.duration_outputs.sum())
    (said,) = synthesise(ours.model, ids, vocoder=ours.vocoder)
    torch.testing.assert_close(said, got.waveform[0], **CLOSE)
    hw.save(ours, tmp_path / "ours")
    said, kept = (json.loads((tmp_path / whose / "config.json").read_text("utf-8")) for whose in ("theirs", "ours"))
    assert {name: kept[name] for name in said} == said
    _, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    torch.testing.assert_close(stored(tmp_path / "ours"), stored(tmp_path / "theirs"), atol=0, rtol=0)


def test_both_together_have_the_published_size():
    with torch.device("meta"):
        both = with_hifigan.FastSpeech2ConformerWithHifiGan(with_hifigan.FastSpeech2ConformerWithHifiGanConfig())
    assert sum(parameter.numel() for parameter in both.parameters()) == 84_188_276
