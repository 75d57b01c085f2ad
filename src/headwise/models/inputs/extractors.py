"""From sounds to what a model hears: see headwise.models.inputs.sounds."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from headwise.models.checkpoint.folder import write_json
from headwise.models.inputs.settings import Number, check_numbers
from headwise.models.inputs.spectrograms import Mel, hann, kaldi_filters, reflected, slaney_filters, spectra
from headwise.models.inputs.waveforms import Sound, as_waveform, listed

LONGEST = 2**28  # samples that every sound is padded to: more would only fill the memory


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor(ABC):
    """Sounds for a model: ``extractor([...])`` is a batch, padded on the right. The names of the settings are the field's."""

    sampling_rate: int = 16000
    padding_value: Number = 0.0

    published: ClassVar[str]  # whose settings these are
    supported: ClassVar[Mapping[str, Any]] = {"padding_side": "right"}  # published entries with one value here
    silent: ClassVar[frozenset[str]] = frozenset()  # published entries that change nothing

    def __post_init__(self) -> None:
        check_numbers(self)

    @abstractmethod
    def __call__(self, sounds: Sound | Iterable[Sound]) -> dict[str, Tensor]:
        """A batch of sounds, or of one. ValueError says which sound cannot be read, and how."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes preprocessor_config.json, which transformers reads too, into the folder."""
        write_json(Path(folder) / "preprocessor_config.json", {"feature_extractor_type": self.published} | asdict(self))

    def _each(self, sounds: Sound | Iterable[Sound], turn: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What ``turn`` makes of every sound's samples, float64, as float32."""
        rows = list[Tensor]()
        for number, sound in enumerate(listed(sounds)):
            called = os.fspath(sound) if isinstance(sound, str | os.PathLike) else f"sound {number}"
            samples = as_waveform(sound, self.sampling_rate, called)
            try:
                rows.append(turn(samples.double()).float())
            except ValueError as error:
                raise ValueError(f"{called}: {error}") from None
        if not rows:
            raise ValueError("there are no sounds: a batch has at least one")
        return rows


def _padded(rows: list[Tensor], value: float) -> tuple[Tensor, Tensor]:
    """Rows of one length, and their mask: int64, 1 = real."""
    mask = pad_sequence([torch.ones(len(row), dtype=torch.int64) for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True, padding_value=value), mask


@dataclass(frozen=True, kw_only=True)
class Waveforms(FeatureExtractor):
    """Samples as they are, {"input_values": float32 (batch, samples)}, each sound normalised for itself: Wav2Vec2's.

        (x - mean) / sqrt(variance + 1e-7)

    With return_attention_mask there is an "attention_mask" (batch, samples), int64, 1 = real. (Without one transformers counts
    the padding into mean and variance, so that a sound would depend on those beside it.)
    """

    do_normalize: bool = True
    return_attention_mask: bool = False

    published: ClassVar[str] = "Wav2Vec2FeatureExtractor"
    supported: ClassVar[Mapping[str, Any]] = {"padding_side": "right", "feature_size": 1}

    def __call__(self, sounds: Sound | Iterable[Sound]) -> dict[str, Tensor]:
        """A batch of sounds, or of one."""
        values, mask = _padded(self._each(sounds, self._normalised), self.padding_value)
        return {"input_values": values} | ({"attention_mask": mask} if self.return_attention_mask else {})

    def _normalised(self, samples: Tensor) -> Tensor:
        if not self.do_normalize:
            return samples
        return (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()


@dataclass(frozen=True, kw_only=True)
class SpeechT5Features(Waveforms):
    """What SpeechT5 hears, as ``Waveforms``; and what it is to say: ``extractor.targets(sounds)``. Windows in milliseconds."""

    do_normalize: bool = False
    return_attention_mask: bool = True
    num_mel_bins: int = 80
    hop_length: int = 16
    win_length: int = 64
    fmin: Number = 80
    fmax: Number = 7600
    mel_floor: Number = 1e-10
    reduction_factor: int = 2

    published: ClassVar[str] = "SpeechT5FeatureExtractor"
    supported: ClassVar[Mapping[str, Any]] = {
        **Waveforms.supported,
        "win_function": "hann_window",
        "frame_signal_scale": 1.0,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.mel  # refuses what no analysis can have

    @property
    def mel(self) -> Mel:
        """The analysis of what is said."""
        window = self.win_length * self.sampling_rate // 1000
        return Mel(
            sampling_rate=self.sampling_rate,
            n_fft=1 << (window - 1).bit_length(),
            win_length=window,
            hop_length=self.hop_length * self.sampling_rate // 1000,
            num_mel_bins=self.num_mel_bins,
            fmin=self.fmin,
            fmax=self.fmax,
            mel_floor=self.mel_floor,
        )

    def targets(self, sounds: Sound | Iterable[Sound]) -> dict[str, Tensor]:
        """What is to be said: "labels" float32 (batch, frames, num_mel_bins), log10 mel, -100 = padding, which no loss counts,
        and "decoder_attention_mask" (batch, frames), int64, 1 = real. The model says reduction_factor frames at a time: a
        sound's last step is filled up with padding, and is real."""

        def steps(samples: Tensor) -> Tensor:
            frames = self.mel(samples)
            return functional.pad(frames, (0, 0, 0, -len(frames) % self.reduction_factor), value=-100.0)

        labels, mask = _padded(self._each(sounds, steps), -100.0)
        return {"labels": labels, "decoder_attention_mask": mask}


@dataclass(frozen=True, kw_only=True)
class Speech2TextFeatures(FeatureExtractor):
    """Kaldi's filter bank: "input_features" float32 (batch, frames, num_mel_bins) and "attention_mask", int64, 1 = real.

    The waveform, times 2^15, in frames of 25 ms every 10 ms, none over the end; each without its mean, pre-emphasised
    (x_n - 0.97 x_{n-1}), under Povey's window (Hann^0.85), as ln max(2^-23, bank |spectrum|^2); then every band without its
    mean over the sound (normalize_means), and over its standard deviation (normalize_vars).
    """

    num_mel_bins: int = 80
    do_ceptral_normalize: bool = True
    normalize_means: bool = True
    normalize_vars: bool = True

    published: ClassVar[str] = "Speech2TextFeatureExtractor"
    supported: ClassVar[Mapping[str, Any]] = {"padding_side": "right", "dither": 0.0}
    silent: ClassVar[frozenset[str]] = frozenset({"feature_size", "return_attention_mask"})

    def __call__(self, sounds: Sound | Iterable[Sound]) -> dict[str, Tensor]:
        """A batch of sounds, or of one, none shorter than a frame."""
        features, mask = _padded(self._each(sounds, self._features), self.padding_value)
        return {"input_features": features, "attention_mask": mask}

    def _features(self, samples: Tensor) -> Tensor:
        window, hop = self.sampling_rate * 25 // 1000, self.sampling_rate // 100
        if len(samples) < window:
            raise ValueError(f"{len(samples)} samples are too short: a frame is {window}")
        frames = 2**15 * samples.unfold(0, window, hop)
        frames = frames - frames.mean(dim=1, keepdim=True)
        frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        n_fft = 1 << (window - 1).bit_length()
        power = torch.fft.rfft(frames * hann(window, periodic=False) ** 0.85, n=n_fft).abs() ** 2
        bank = kaldi_filters(self.num_mel_bins, n_fft, self.sampling_rate, 20.0, float(self.sampling_rate // 2))
        bands = (power @ bank.mT).clamp(min=2**-23).log()
        if self.do_ceptral_normalize and self.normalize_means:
            bands = bands - bands.mean(dim=0)
        if self.do_ceptral_normalize and self.normalize_vars:  # a band that never changes stays at 0: the reference says nan
            bands = bands / bands.std(dim=0, correction=0).clamp(min=1e-8)
        return bands


@dataclass(frozen=True, kw_only=True)
class ParakeetFeatures(FeatureExtractor):
    """NVIDIA's: "input_features" float32 (batch, frames, feature_size) and "attention_mask", int64, 1 = real; padding is 0.

    ln(2^-24 + bank |spectrum|^2) of the pre-emphasised waveform, x_n - preemphasis x_{n-1}, with zeros beyond its ends. The
    bank is Slaney's, up to half the sampling rate. Then every band without its mean over the sound, and over its standard
    deviation (n - 1) + 1e-5. A sound has samples // hop_length frames; a batch has one more than the longest.
    """

    feature_size: int = 80
    hop_length: int = 160
    n_fft: int = 512
    win_length: int = 400
    preemphasis: Number = 0.97

    published: ClassVar[str] = "ParakeetFeatureExtractor"
    silent: ClassVar[frozenset[str]] = frozenset({"return_attention_mask"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.win_length > self.n_fft:
            raise ValueError(f"expected win_length <= n_fft, got {self.win_length} and {self.n_fft}")

    def __call__(self, sounds: Sound | Iterable[Sound]) -> dict[str, Tensor]:
        """A batch of sounds, or of one, none shorter than two frames."""
        features, mask = _padded(self._each(sounds, self._features), 0.0)
        return {"input_features": functional.pad(features, (0, 0, 0, 1)), "attention_mask": functional.pad(mask, (0, 1))}

    def _features(self, samples: Tensor) -> Tensor:
        count = (len(samples) - self.n_fft % 2) // self.hop_length
        if count < 2:
            raise ValueError(f"{len(samples)} samples are too short: two frames are {2 * self.hop_length}")
        samples = torch.cat([samples[:1], samples[1:] - self.preemphasis * samples[:-1]])
        before = self.n_fft // 2 - (self.n_fft - self.win_length) // 2
        window = hann(self.win_length, periodic=False)
        spectrum = spectra(functional.pad(samples, (before, self.win_length)), window, self.hop_length, self.n_fft)[:count]
        bank = slaney_filters(self.feature_size, self.n_fft, self.sampling_rate, 0.0, self.sampling_rate / 2)
        bands = (spectrum.abs() ** 2 @ bank.mT + 2**-24).log()
        return (bands - bands.mean(dim=0)) / (bands.std(dim=0) + 1e-5)


@dataclass(frozen=True, kw_only=True)
class WhisperFeatures(FeatureExtractor):
    """{"input_features": float32 (batch, feature_size, frames)}, every sound padded to chunk_length seconds, none longer.

    y = log10 max(1e-10, bank |spectrum|^2), no more than 8 below the sound's highest; (y + 4) / 4. Slaney's bank up to 8 kHz.
    With return_attention_mask there is an "attention_mask" (batch, frames), int64, 1 = real.
    """

    feature_size: int = 80
    hop_length: int = 160
    chunk_length: int = 30
    n_fft: int = 400
    return_attention_mask: bool = False

    published: ClassVar[str] = "WhisperFeatureExtractor"
    supported: ClassVar[Mapping[str, Any]] = {"padding_side": "right", "dither": 0.0}
    silent: ClassVar[frozenset[str]] = frozenset({"mel_filters", "n_samples", "nb_max_frames"})  # which follow from the others

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.n_fft // 2 < self.chunk_length * self.sampling_rate <= LONGEST:
            raise ValueError(f"chunk_length is {self.chunk_length}; expected seconds, more than a window and not too many")

    def __call__(self, sounds: Sound | Iterable[Sound]) -> dict[str, Tensor]:
        """A batch of sounds, or of one. Where a longer one is to be cut is the caller's to choose."""
        lengths = list[int]()

        def features(samples: Tensor) -> Tensor:
            lengths.append(len(samples))
            return self._features(samples)

        batch = {"input_features": torch.stack(self._each(sounds, features))}
        if self.return_attention_mask:
            starts = torch.arange(batch["input_features"].shape[-1]) * self.hop_length
            batch["attention_mask"] = (starts < torch.tensor(lengths)[:, None]).long()
        return batch

    def _features(self, samples: Tensor) -> Tensor:
        length = self.chunk_length * self.sampling_rate
        if len(samples) > length:
            raise ValueError(f"{len(samples) / self.sampling_rate:.1f} s; expected at most {self.chunk_length} s, so cut it")
        samples = functional.pad(samples, (0, length - len(samples)), value=self.padding_value)
        spectrum = spectra(reflected(samples, self.n_fft // 2), hann(self.n_fft), self.hop_length, self.n_fft)[:-1]
        bank = slaney_filters(self.feature_size, self.n_fft, self.sampling_rate, 0.0, 8000.0)
        bands = (spectrum.abs() ** 2 @ bank.mT).clamp(min=1e-10).log10()
        return ((bands.maximum(bands.max() - 8) + 4) / 4).mT
