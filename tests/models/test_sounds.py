"""Sounds: the reference library's extractors over their settings.

Its spectra are of float32 in Parakeet and Whisper: there the same formulas in float64 are the measure. Where transformers does
something that nobody can want, there is a test with the reason.
"""

import copy
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    ParakeetFeatureExtractor,
    Speech2TextFeatureExtractor,
    SpeechT5FeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
from voice import make

from headwise.models.checkpoint.folder import CheckpointError
from headwise.models.inputs.sounds import (
    KINDS,
    ParakeetFeatures,
    Speech2TextFeatures,
    SpeechT5Features,
    Waveforms,
    WhisperFeatures,
    feature_extractor,
)
from headwise.models.inputs.spectrograms import kaldi_filters, slaney_filters

LENGTHS = (5003, 4800, 1999)  # in samples; the second is whole frames
SETTINGS = [
    (Wav2Vec2FeatureExtractor, {"return_attention_mask": True}),
    (Wav2Vec2FeatureExtractor, {"return_attention_mask": True, "do_normalize": False, "padding_value": 0.5}),
    (ParakeetFeatureExtractor, {}),
    (ParakeetFeatureExtractor, {"feature_size": 13, "n_fft": 400, "win_length": 301, "hop_length": 101, "preemphasis": None}),
    (ParakeetFeatureExtractor, {"feature_size": 17, "n_fft": 511, "win_length": 400, "sampling_rate": 11025}),
    (Speech2TextFeatureExtractor, {}),
    (Speech2TextFeatureExtractor, {"num_mel_bins": 31, "normalize_vars": False, "padding_value": -3.0}),
    (Speech2TextFeatureExtractor, {"normalize_means": False}),
    (Speech2TextFeatureExtractor, {"do_ceptral_normalize": False}),
    (WhisperFeatureExtractor, {"return_attention_mask": True}),
    (WhisperFeatureExtractor, {"chunk_length": 1, "feature_size": 128, "return_attention_mask": True}),
    (WhisperFeatureExtractor, {"chunk_length": 1, "n_fft": 301, "hop_length": 97, "feature_size": 19, "padding_value": 0.1}),
    (SpeechT5FeatureExtractor, {}),
    (SpeechT5FeatureExtractor, {"do_normalize": True, "num_mel_bins": 23, "win_length": 25, "hop_length": 10, "fmin": 20}),
    (SpeechT5FeatureExtractor, {"sampling_rate": 22050, "fmax": 11000, "mel_floor": 1e-3}),
]
# Files as they were written before: settings that follow from others, or that nothing reads any more.
OLD = {
    "wav2vec2, no type": (
        {"do_normalize": True, "feature_size": 1, "padding_side": "right"},
        {"model_type": "wav2vec2-conformer"},
    ),
    "whisper": (
        {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "mel_filters": [[0.0]],
            "n_samples": 480000,
            "nb_max_frames": 3000,
        },
        {},
    ),
    "speecht5": (
        {"feature_extractor_type": "SpeechT5FeatureExtractor", "frame_signal_scale": 1.0, "reduction_factor": 2},
        {"model_type": "speecht5"},
    ),
    "speech_to_text": ({"feature_size": 80, "return_attention_mask": True}, {"model_type": "speech_to_text"}),
    "parakeet": (
        {"feature_extractor_type": "ParakeetFeatureExtractor", "return_attention_mask": True, "preemphasis": None},
        {},
    ),
}


def write(folder: Path, entries: dict, name: str = "preprocessor_config.json") -> Path:
    (folder / name).write_text(json.dumps(entries), encoding="utf-8")
    return folder


def through_a_file(reference) -> object:
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        return feature_extractor(folder)


def exact(reference):
    """The same extractor with its spectra in float64."""
    reference = copy.copy(reference)
    if isinstance(reference, ParakeetFeatureExtractor):
        inner = reference._torch_extract_fbank_features
        reference.mel_filters = reference.mel_filters.double()

        def extract(waveform: torch.Tensor, device: str) -> torch.Tensor:
            torch.set_default_dtype(torch.float64)  # of the window
            try:
                return inner(waveform.double(), device)
            finally:
                torch.set_default_dtype(torch.float32)

        reference._torch_extract_fbank_features = extract
    if isinstance(reference, WhisperFeatureExtractor):
        reference._torch_extract_fbank_features = reference._np_extract_fbank_features
    return reference


def called(reference, sounds: list[np.ndarray], **more: object) -> dict[str, torch.Tensor]:
    more |= {} if isinstance(reference, WhisperFeatureExtractor) else {"padding": True}
    if isinstance(reference, WhisperFeatureExtractor):
        more["return_attention_mask"] = reference.return_attention_mask
    batch = reference(sounds, sampling_rate=reference.sampling_rate, return_tensors="pt", **more)
    return {name: torch.as_tensor(value) for name, value in batch.items()}


def same(ours, reference, sounds: list[np.ndarray], atol: float) -> None:
    batch, expected = ours(sounds), called(reference, sounds)
    assert batch.keys() == expected.keys()
    for name, tensor in batch.items():
        assert tensor.dtype == (torch.int64 if name == "attention_mask" else torch.float32)
        torch.testing.assert_close(tensor, expected[name].to(tensor.dtype), atol=atol, rtol=1e-5)


@pytest.mark.parametrize(("kind", "entries"), SETTINGS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_references_values(kind, entries):
    reference = kind(**entries)
    ours, sounds = through_a_file(reference), [make(samples) for samples in LENGTHS]
    same(ours, reference, sounds, atol=2e-3)
    sounds.append(1e-4 * np.pad(make(3001), (0, 500)))  # so soft that the floors count, and that float32 is too coarse
    same(ours, exact(reference), sounds, atol=5e-5)
    if kind is SpeechT5FeatureExtractor:
        said = reference(audio_target=sounds, sampling_rate=reference.sampling_rate, padding=True, return_tensors="pt")
        batch = ours.targets(sounds)
        real = torch.as_tensor(said["attention_mask"]).bool()
        labels = batch["labels"][:, : real.shape[1]]
        assert (labels[~real] == -100).all()
        torch.testing.assert_close(labels[real], torch.as_tensor(said["input_values"])[real], atol=1e-5, rtol=0)


BINS, LENGTH, RATES = st.integers(3, 40), st.lists(st.integers(1700, 7000), min_size=1, max_size=3), (8000, 16000, 22050, 24000)
DRAWN = {
    Wav2Vec2FeatureExtractor: {
        "do_normalize": st.booleans(),
        "padding_value": st.floats(-1, 1),
        "return_attention_mask": st.just(True),
    },
    ParakeetFeatureExtractor: {
        "feature_size": BINS,
        "hop_length": st.integers(50, 300),
        "n_fft": st.integers(400, 700),
        "win_length": st.integers(100, 400),
        "preemphasis": st.floats(0, 1),
        "sampling_rate": st.sampled_from(RATES),
    },
    Speech2TextFeatureExtractor: {
        "num_mel_bins": BINS,
        "do_ceptral_normalize": st.booleans(),
        "normalize_vars": st.booleans(),
        "normalize_means": st.booleans(),
        "padding_value": st.floats(-1, 1),
    },
    WhisperFeatureExtractor: {
        "feature_size": BINS,
        "hop_length": st.integers(100, 200),
        "n_fft": st.integers(150, 250).map(lambda half: 2 * half),  # of odd ones the reference's mask is one too long
        "chunk_length": st.integers(1, 2),
        "sampling_rate": st.sampled_from(RATES[1:]),
        "return_attention_mask": st.booleans(),
    },
    SpeechT5FeatureExtractor: {
        "num_mel_bins": BINS,
        "hop_length": st.integers(5, 20),
        "win_length": st.integers(25, 80),
        "fmin": st.integers(0, 300),
        "fmax": st.integers(2000, 4000),
        "do_normalize": st.booleans(),
        "sampling_rate": st.sampled_from(RATES),
    },
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize("kind", DRAWN, ids=lambda kind: kind.__name__)
def test_the_references_values_with_any_settings(kind):
    @settings(max_examples=30, deadline=None)
    @given(st.fixed_dictionaries(DRAWN[kind]), LENGTH)
    def check(entries, lengths):
        reference = kind(**entries)
        ours, sounds = through_a_file(reference), [make(samples) for samples in lengths]
        same(ours, exact(reference), sounds, atol=1e-4)
        if kind is SpeechT5FeatureExtractor:
            expected = reference(audio_target=sounds[0], sampling_rate=reference.sampling_rate)["input_values"][0]
            labels = ours.targets(sounds[0])["labels"][0, : len(expected)]
            torch.testing.assert_close(labels, torch.as_tensor(expected), atol=1e-5, rtol=0)

    check()


@given(BINS, st.integers(50, 2048), st.integers(8000, 48000), st.floats(0, 500), st.floats(600, 4000))
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
def test_banks_of_filters(bins, n_fft, rate, fmin, fmax):
    half = n_fft // 2 + 1
    expected = mel_filter_bank(half, bins, fmin, fmax, rate, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(slaney_filters(bins, n_fft, rate, fmin, fmax).numpy(), expected.T, atol=1e-12)
    if n_fft % 2 == 0:  # the reference knows the number of frequencies only
        kaldi = mel_filter_bank(half, bins, fmin, fmax, rate, mel_scale="kaldi", triangularize_in_mel_space=True)
        np.testing.assert_allclose(kaldi_filters(bins, n_fft, rate, fmin, fmax).numpy(), kaldi.T, atol=1e-9)


@pytest.mark.parametrize("rate", [8000, 22050])
def test_kaldis_windows_are_of_25_ms_whatever_the_rate(rate):
    """As torchaudio's. Without it the reference takes the 400 samples that those are at 16 kHz."""
    frame, sound = rate * 25 // 1000, make(5003)
    n_fft = 256 if rate == 8000 else 1024
    bank = mel_filter_bank(n_fft // 2 + 1, 23, 20, rate // 2, rate, mel_scale="kaldi", triangularize_in_mel_space=True)
    shape = {"frame_length": frame, "hop_length": rate // 100, "fft_length": n_fft, "power": 2.0, "center": False}
    level = {"preemphasis": 0.97, "mel_filters": bank, "log_mel": "log", "mel_floor": 2**-23, "remove_dc_offset": True}
    expected = spectrogram(sound * 2**15, window_function(frame, "povey", periodic=False), **shape, **level).T
    ours = Speech2TextFeatures(sampling_rate=rate, num_mel_bins=23, do_ceptral_normalize=False)
    torch.testing.assert_close(ours(sound)["input_features"][0], torch.from_numpy(expected), atol=1e-4, rtol=0)


EVERY = [
    Waveforms(return_attention_mask=True),
    ParakeetFeatures(),
    Speech2TextFeatures(),
    WhisperFeatures(chunk_length=1),
    SpeechT5Features(),
]


@pytest.mark.parametrize("extractor", EVERY, ids=lambda one: type(one).__name__)
def test_a_sound_is_the_same_beside_others(extractor):
    batch = extractor([make(samples) for samples in LENGTHS])
    for row, samples in enumerate(LENGTHS):
        for name, alone in extractor(make(samples)).items():
            inside = batch[name][(row, *map(slice, alone.shape[1:]))]
            torch.testing.assert_close(inside, alone[0], atol=0, rtol=0)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_speecht5s_targets_are_whole_steps(every):
    sounds = [make(256 * frames - 1) for frames in (11, 7, 4)]
    batch = SpeechT5Features(reduction_factor=every).targets(sounds)
    whole = [-(-frames // every) * every for frames in (11, 7, 4)]
    assert batch["labels"].shape == (3, whole[0], 80)
    assert (batch["labels"] != -100).any(dim=2).sum(dim=1).tolist() == [11, 7, 4]
    assert batch["decoder_attention_mask"].sum(dim=1).tolist() == whole


def test_without_a_mask_padding_does_not_count_either():
    """The reference reckons mean and variance with the padding in, so that a sound depends on the longest beside it."""
    loud, long = 3 * make(2003) + 0.5, make(5003)
    values = Waveforms()([loud, long])
    assert values.keys() == {"input_values"}
    alone = called(Wav2Vec2FeatureExtractor(), [loud])["input_values"][0]
    torch.testing.assert_close(values["input_values"][0, :2003], alone, atol=1e-5, rtol=0)
    assert (called(Wav2Vec2FeatureExtractor(), [loud, long])["input_values"][0, :2003] - alone).abs().max() > 0.1


@pytest.mark.parametrize("extractor", EVERY, ids=lambda one: type(one).__name__)
def test_silence_is_a_sound(extractor):
    """In Speech2Text the reference divides 0 by 0."""
    assert all(tensor.isfinite().all() for tensor in extractor(np.zeros(4001, np.float32)).values())


@pytest.mark.parametrize("extractor", EVERY, ids=lambda one: type(one).__name__)
def test_what_is_saved_is_read_by_both_libraries(tmp_path, extractor):
    extractor.save(tmp_path)
    assert feature_extractor(tmp_path) == extractor
    reference = next(kind for kind in DRAWN if kind.__name__ == extractor.published).from_pretrained(tmp_path)
    same(extractor, exact(reference), [make(samples) for samples in LENGTHS], atol=5e-5)


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("joint", [False, True])
def test_files_of_old_and_joint_ones_of_today(tmp_path, name, joint):
    entries, config = OLD[name]
    write(tmp_path, {"feature_extractor": entries} if joint else entries, f"{'' if joint else 'pre'}processor_config.json")
    write(tmp_path, config, "config.json")
    kind = type(feature_extractor(tmp_path))
    known = {key: 0.0 if value is None else value for key, value in entries.items() if key in kind.__dataclass_fields__}
    assert feature_extractor(tmp_path) == kind(**known)
    assert kind.published[:4].lower() == name[:4]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_files_with_sound(tmp_path, suffix):
    left, right = make(16000), make(16001)[1:]
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([left, right], axis=1), 16000)
    got = Waveforms(do_normalize=False)([tmp_path / f"a.{suffix}", str(tmp_path / f"a.{suffix}")])["input_values"]
    assert torch.equal(got[0], got[1])
    error = (got[0, :16000] - torch.from_numpy((left + right) / 2)).norm() / np.linalg.norm((left + right) / 2)
    assert error < (0.001 if suffix in ("wav", "flac") else 0.3)  # the others leave out what is not heard


def test_arrays_with_sound():
    sound, ours = make(2003), Waveforms(do_normalize=False)
    whole = np.round(sound * 2**15).astype(np.int16)
    for given_ in (
        sound,
        sound.astype(np.float64),
        torch.tensor(sound, requires_grad=True),
        (sound, 16000),
        whole,
        torch.tensor(whole),
    ):
        assert (ours(given_)["input_values"] - torch.from_numpy(sound)).abs().max() < 2**-15
        assert torch.equal(ours(given_)["input_values"], ours([given_])["input_values"])
    assert ours(np.array([-(2**15), 2**14], np.int16))["input_values"].tolist() == [[-1.0, 0.5]]
    assert ours((sound, make(1009)))["input_values"].shape == (2, 2003)  # a tuple of two sounds
    assert ours(torch.from_numpy(sound).bfloat16())["input_values"].dtype == torch.float32


@pytest.mark.parametrize("kind", [">f4", ">f8", "longdouble"])
@pytest.mark.parametrize("step", [1, -1, 2])
def test_arrays_in_any_order_of_bytes_and_steps(kind, step):
    sound = make(4000)
    samples = Waveforms()(sound.astype(kind)[::step])["input_values"]
    assert torch.equal(samples, Waveforms()(sound[::step].copy())["input_values"])


@pytest.mark.parametrize(("rate", "samples"), [(8000, 2000), (22050, 5513), (44100, 11025), (np.int64(48000), 12000)])
def test_another_rate_is_resampled(rate, samples):
    def tone(rate: int, samples: int) -> np.ndarray:
        time = np.arange(samples) / rate
        return np.sin(2 * np.pi * 440 * time) * np.exp(-(((time - 0.125) / 0.03) ** 2))

    got = Waveforms(do_normalize=False)((tone(rate, samples), rate))["input_values"][0].numpy()
    assert abs(len(got) - 4000) <= 1
    np.testing.assert_allclose(got[:4000], tone(16000, 4000)[: len(got)], atol=2e-3)


@pytest.mark.nohook
def test_sounds_that_cannot_be_read(tmp_path):
    ours, sound = Waveforms(), make(2003)
    soundfile.write(tmp_path / "no.wav", np.zeros(0), 16000)
    (tmp_path / "bad.wav").write_bytes(b"RIFF and no more")
    wrong = [
        (tmp_path / "none.wav", "none.wav cannot be read as a sound: No such file"),
        (tmp_path, "cannot be read as a sound: Is a directory"),
        (tmp_path / "bad.wav", "bad.wav cannot be read as a sound: "),
        (tmp_path / "no.wav", "no.wav is empty"),
        ([sound, sound[:0]], "sound 1 is empty"),
        ([sound, sound * np.nan], "sound 1 holds nan or infinity"),
        (np.zeros((2, 2003)), "2 x 2003 could be sounds or the channels of one: expected a list of sounds"),
        ([np.zeros((2, 2003))], "sound 0 is 2 x 2003; expected (samples,)"),
        (np.array(0.5), "a single number could be sounds"),
        ([0.25, 0.5], "sound 0 is a float; expected a path, an array of samples, or (samples, rate)"),
        ((16000, sound), "sound 0 is a int"),
        (sound.astype(np.int32), "sound 0 has dtype int32; expected floats, -1 to 1, or int16"),
        ((sound, 0), "sound 0 has 0 samples a second; expected 1000 to 999999"),
        ([], "there are no sounds"),
        (3, "expected sounds (paths, (samples, rate) or arrays), got int"),
        (b"RIFF", "got bytes"),
    ]
    for given_, message in wrong:
        with pytest.raises(ValueError, match=re.escape(message)):
            ours(given_)


@pytest.mark.nohook
def test_sounds_too_short_or_too_long():
    wrong = [
        (Speech2TextFeatures(), 399, "sound 1: 399 samples are too short: a frame is 400"),
        (ParakeetFeatures(), 319, "sound 1: 319 samples are too short: two frames are 320"),
        (WhisperFeatures(chunk_length=1), 16160, "sound 1: 1.0 s; expected at most 1 s, so cut it"),
    ]
    for extractor, samples, message in wrong:
        with pytest.raises(ValueError, match=re.escape(message)):
            extractor([make(2003), make(samples)])
    with pytest.raises(ValueError, match="sound 0: 512 samples are too short: half a window is 512"):
        SpeechT5Features().targets(make(512))
    for extractor, samples in (
        (Speech2TextFeatures(), 400),
        (ParakeetFeatures(), 320),
        (WhisperFeatures(), 1),
        (Waveforms(), 1),
    ):
        assert all(tensor.isfinite().all() for tensor in extractor(make(samples)).values())
    assert SpeechT5Features().targets(make(513))["labels"].isfinite().all()


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"feature_extractor_type": "EncodecFeatureExtractor"}, "EncodecFeatureExtractor is not among what is read: Wav2Vec2"),
        ({}, "the processor of model_type None is not among"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1}, "dither is 0.1; here it is always 0.0"),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "padding_side": "left"}, "padding_side is 'left'"),
        ({"feature_extractor_type": "SpeechT5FeatureExtractor", "win_function": "hamming"}, "win_function is 'hamming'"),
        ({"feature_extractor_type": "SpeechT5FeatureExtractor", "fmin": 7600}, "expected 0 <= fmin < fmax"),
        (
            {"feature_extractor_type": "SpeechT5FeatureExtractor", "hop_length": 65},
            "expected hop_length <= win_length <= n_fft",
        ),
        ({"feature_extractor_type": "SpeechT5FeatureExtractor", "num_mel_bins": 514}, "514 filters are more than the 513"),
        ({"feature_extractor_type": "ParakeetFeatureExtractor", "n_fft": 399}, "expected win_length <= n_fft, got 400 and 399"),
        ({"feature_extractor_type": "ParakeetFeatureExtractor", "do_more": 3}, "what do_more = 3 does to a sound is unknown"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 10**6}, "chunk_length is 1000000; expected"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80.0}, "feature_size is 80.0; expected a whole"),
        (
            {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": 1},
            "do_normalize is 1; expected True or False",
        ),
        (
            {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "padding_value": "0"},
            "padding_value is '0'; expected a number",
        ),
    ],
)
def test_settings_that_are_refused(tmp_path, entries, message):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        feature_extractor(write(tmp_path, entries))


@pytest.mark.nohook
def test_folders_without_an_extractor(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no preprocessor_config.json, nor .* how sounds go in"):
        feature_extractor(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder with a feature extractor"):
        feature_extractor(tmp_path / "none")
    assert KINDS.keys() == {kind.__name__ for kind in DRAWN}
