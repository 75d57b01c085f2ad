"""Waveforms out of spectrograms: Griffin and Lim's algorithm, on a made-up voice and on real ones."""

import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers.audio_utils import mel_filter_bank
from voice import make

from headwise.models import speech
from headwise.models.inputs.sounds import Waveforms
from headwise.models.speech import FASTSPEECH2, SPEECHT5, Mel, griffin_lim


def convergence(waveform: torch.Tensor, target: torch.Tensor, mel: Mel) -> float:
    """| |STFT(waveform)| - target | / | target |"""
    window = torch.hann_window(mel.win_length)
    shape = mel.n_fft, mel.hop_length, mel.win_length, window
    found = torch.stft(waveform, *shape, pad_mode="constant", return_complex=True).abs().mT
    return ((found - target).norm() / target.norm()).item()


def test_fastspeech2s_mel_is_espnets():
    sound = torch.from_numpy(make(5003)) * 1e-3  # so soft that the floor counts
    spectrum = torch.stft(sound.double(), 1024, 256, window=torch.hann_window(1024, dtype=torch.float64), return_complex=True)
    bank = torch.from_numpy(mel_filter_bank(513, 80, 80, 7600, 22050, norm="slaney", mel_scale="slaney"))
    expected = (bank.T @ (spectrum.abs() ** 2).clamp(min=1e-10).sqrt()).clamp(min=1e-10).log10().T
    torch.testing.assert_close(FASTSPEECH2(sound), expected.float(), atol=1e-5, rtol=0)
    assert FASTSPEECH2(sound[None].expand(2, -1)).shape == (2, 1 + 5003 // 256, 80)


@pytest.mark.parametrize("mel", [SPEECHT5, FASTSPEECH2, Mel(n_fft=512, win_length=401, hop_length=100, num_mel_bins=29)])
def test_magnitudes_have_the_bands_they_came_from(mel):
    log_mel = mel(torch.from_numpy(make(8009)))
    magnitudes = mel.magnitudes(log_mel)
    assert (magnitudes >= 0).all()
    bands = magnitudes.double() @ mel.filters.mT
    assert (bands - 10 ** log_mel.double()).norm() / (10 ** log_mel.double()).norm() < 0.01


def test_griffin_lim_comes_nearer_with_every_step():
    log_mel = SPEECHT5(torch.from_numpy(make(16001)))
    target = SPEECHT5.magnitudes(log_mel)

    def left(iterations: int, momentum: float) -> float:
        return convergence(griffin_lim(log_mel, SPEECHT5, iterations=iterations, momentum=momentum), target, SPEECHT5)

    plain = [left(iterations, 0.0) for iterations in range(12)]
    assert all(after < before for before, after in pairwise(plain))
    fast = [left(iterations, 0.99) for iterations in (0, 4, 16, 64)]
    assert all(after < before for before, after in pairwise(fast))
    assert fast[0] > 0.5
    assert left(32, 0.99) < min(0.15, left(32, 0.0))


def test_griffin_lim_says_what_was_said():
    sound = torch.from_numpy(make(16001))
    for mel in (SPEECHT5, FASTSPEECH2):
        waveform = griffin_lim(mel(sound), mel)
        assert waveform.shape == (16001 // 256 * 256,)
        assert (mel(waveform) - mel(sound)).pow(2).mean().sqrt() < 0.15  # of log10: 3 dB
    tone = torch.sin(2 * torch.pi * 437.5 * torch.arange(16000) / 16000)  # 28 of 1024
    spectrum = torch.fft.rfft(griffin_lim(SPEECHT5(tone), SPEECHT5)[4096:12288]).abs()
    assert abs(spectrum.argmax().item() * 16000 / 8192 - 437.5) < 16000 / 1024


def test_griffin_lims_seed_and_batches():
    log_mel = SPEECHT5(torch.from_numpy(np.stack([make(5003), make(5003)[::-1]])))
    once = griffin_lim(log_mel, SPEECHT5, iterations=3)
    assert once.shape == (2, 19 * 256)
    assert torch.equal(once, griffin_lim(log_mel, SPEECHT5, iterations=3))
    assert not torch.equal(once, griffin_lim(log_mel, SPEECHT5, iterations=3, seed=1))
    torch.testing.assert_close(once[0], griffin_lim(log_mel[0], SPEECHT5, iterations=3))
    assert torch.equal(once[None], griffin_lim(log_mel[None], SPEECHT5, iterations=3))
    assert griffin_lim(log_mel.double(), SPEECHT5).dtype == torch.float64


def test_the_first_phases_are_of_the_whole_circle():
    spectrogram = SPEECHT5(torch.from_numpy(make(8009)))
    one, other = (griffin_lim(spectrogram, SPEECHT5, iterations=0, seed=seed) for seed in (0, 1))
    assert abs(torch.cosine_similarity(one, other, dim=0)) < 0.2


def test_the_shortest_spectrogram_and_silence_are_finite():
    assert griffin_lim(torch.zeros(2, 80), SPEECHT5).shape == (256,)
    assert griffin_lim(torch.full((7, 80), -10.0), SPEECHT5).abs().max() < 1e-6


@pytest.mark.nohook
def test_spectrograms_that_cannot_be_said(tmp_path):
    log_mel = torch.zeros(7, 80)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: griffin_lim(log_mel[:, :79], SPEECHT5), "expected a log-mel spectrogram (..., frames, 80), got (7, 79)"),
        (lambda: griffin_lim(log_mel[:1], SPEECHT5), "at least two frames, got (1, 80)"),
        (lambda: griffin_lim(log_mel * torch.nan, SPEECHT5), "the spectrogram holds nan"),
        (lambda: griffin_lim(log_mel + 99, SPEECHT5), "or more than a logarithm"),
        (lambda: griffin_lim(log_mel, SPEECHT5, iterations=-1), "expected iterations and a momentum of at least 0, got -1"),
        (lambda: griffin_lim(log_mel, Mel(hop_length=600)), "hop_length 600: expected at most half of win_length 1024"),
        (lambda: Mel(n_fft=512), "expected hop_length <= win_length <= n_fft, got 256, 1024 and 512"),
        (lambda: Mel(mel_floor=0), "mel_floor above 0"),
        (lambda: SPEECHT5(torch.zeros(3, 512)), "512 samples are too short: half a window is 512"),
        (lambda: speech.save(torch.zeros(2, 3), tmp_path / "a.wav", 16000), "one channel, (samples,), got (2, 3)"),
        (lambda: speech.save(torch.zeros(3) / 0, tmp_path / "a.wav", 16000), "expected finite samples"),
        (lambda: speech.save(torch.zeros(3), tmp_path / "a.flac", 16000), "expected a name that ends in .wav"),
        (lambda: speech.save(torch.zeros(3), tmp_path / "a.wav", 0), "sampling_rate: expected samples a second, got 0"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_read_again(tmp_path):
    sound = torch.from_numpy(make(2003))
    speech.save(sound, tmp_path / "said.wav", 22050)
    speech.save(torch.cat([sound, torch.tensor([3.0, -3.0])]), tmp_path / "said.wav", 22050)  # over what was there
    assert [path.name for path in tmp_path.iterdir()] == ["said.wav"]
    assert soundfile.info(tmp_path / "said.wav").subtype == "PCM_16"
    got = Waveforms(do_normalize=False, sampling_rate=22050)(tmp_path / "said.wav")["input_values"][0]
    torch.testing.assert_close(got[:-2], sound, atol=2**-15, rtol=0)
    assert got[-2:].tolist() == pytest.approx([1, -1], abs=2**-14)


def test_a_spectrogram_is_of_whatever_a_sound_may_be(tmp_path):
    sound = torch.from_numpy(make(2003))
    speech.save(sound, tmp_path / "said.wav", 16000)
    whole = (sound * 2**15).round().clamp(-(2**15), 2**15 - 1).short()
    for same in (whole, whole.numpy(), sound.numpy(), tmp_path / "said.wav", (sound, 16000)):
        torch.testing.assert_close(SPEECHT5(same), SPEECHT5(sound), atol=0.01, rtol=0)
    assert SPEECHT5((sound, 8000)).shape[0] == 1 + 2 * len(sound) // SPEECHT5.hop_length


@pytest.fixture
def recordings() -> list[Path]:
    for folder in (os.environ.get("HEADWISE_DATA", ""), Path(__file__).parents[3] / "shared" / "data"):
        if found := sorted((Path(folder) / "ljspeech_8" / "wavs").glob("*.wav")):
            return found
    pytest.skip("no data set: set HEADWISE_DATA to the folder that holds ljspeech_8")


def test_real_speech_there_and_back(recordings):
    assert len(recordings) == 8
    for path in recordings[1::3]:
        sound = Waveforms(do_normalize=False, sampling_rate=22050)(path)["input_values"][0]
        log_mel = FASTSPEECH2(sound)
        waveform = griffin_lim(log_mel, FASTSPEECH2)
        assert convergence(waveform, FASTSPEECH2.magnitudes(log_mel), FASTSPEECH2) < 0.14
        assert (FASTSPEECH2(waveform) - log_mel).pow(2).mean().sqrt() < 0.1  # of log10: 2 dB
