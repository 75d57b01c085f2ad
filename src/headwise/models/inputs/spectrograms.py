"""Spectra of sound, their mel bands, and back to magnitudes: what speech models read and write.

A mel scale spaces frequencies f (in hertz) as they are heard:
    Slaney 1998     3 f / 200 below 1000 Hz; above, 15 + 27 ln(f / 1000) / ln 6.4
    Kaldi           1127 ln(1 + f / 700)
and a filter bank sums the frequencies of a spectrum in triangles: with edges e_0 ... e_{n+1} equally far apart in mel, filter m
rises from e_m to e_{m+1} and falls to e_{m+2}. Slaney's are triangles in hertz with an area of 1,
Kaldi's in mel with a top of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from headwise.models.inputs.settings import Number, check_numbers
from headwise.models.inputs.waveforms import Sound, as_waveform

STEPS = 50  # of the way back to magnitudes: the mel bands are then right to 0.2 %


def spectra(
    waveform: Float[Tensor, "*batch samples"], window: Float[Tensor, " win_length"], hop_length: int, n_fft: int
) -> Complex[Tensor, "*batch frames frequencies"]:
    """The Fourier transform of every frame under the window; frame t begins at sample t hop_length, none hangs over the end."""
    return torch.fft.rfft(waveform.unfold(-1, len(window), hop_length) * window, n=n_fft)


def hann(length: int, periodic: bool = True) -> Float[Tensor, " length"]:
    return torch.hann_window(length, periodic=periodic, dtype=torch.float64)


def reflected(waveform: Float[Tensor, "*batch samples"], width: int) -> Float[Tensor, "*batch padded"]:
    """The waveform with ``width`` samples more at both ends, mirrored, so that frames have their middle at t hop_length."""
    if waveform.shape[-1] <= width:
        raise ValueError(f"{waveform.shape[-1]} samples are too short: half a window is {width}")
    rows = functional.pad(waveform.reshape(-1, waveform.shape[-1]), (width, width), mode="reflect")
    return rows.reshape(*waveform.shape[:-1], -1)


def slaney_filters(
    bins: int, n_fft: int, sampling_rate: int, fmin: Number, fmax: Number
) -> Float[Tensor, "mel_bins frequencies"]:
    """Slaney's bank, as librosa and transformers have it."""

    def mel(hertz: Number) -> Number:
        return 15 + 27 * math.log(hertz / 1000) / math.log(6.4) if hertz >= 1000 else 3 * hertz / 200

    marks = torch.linspace(mel(fmin), mel(fmax), bins + 2, dtype=torch.float64)
    edges = torch.where(marks >= 15, 1000 * torch.exp((marks - 15) * math.log(6.4) / 27), 200 * marks / 3)
    # Of an odd rate the reference takes the half without its fraction.
    frequencies = torch.linspace(0, sampling_rate // 2, n_fft // 2 + 1, dtype=torch.float64)
    return _triangles(frequencies, edges) * (2 / (edges[2:] - edges[:-2]))[:, None]


def kaldi_filters(
    bins: int, n_fft: int, sampling_rate: int, fmin: Number, fmax: Number
) -> Float[Tensor, "mel_bins frequencies"]:
    """Kaldi's bank, as torchaudio has it."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    low, high = mel(torch.tensor([fmin, fmax], dtype=torch.float64)).tolist()
    frequencies = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sampling_rate / n_fft
    return _triangles(mel(frequencies), torch.linspace(low, high, bins + 2, dtype=torch.float64))


def _triangles(
    places: Float[Tensor, " frequencies"], edges: Float[Tensor, " mel_edges"]
) -> Float[Tensor, "mel_bins frequencies"]:
    left, top, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((places - left) / (top - left), (right - places) / (right - top)).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Mel:
    """A log-mel analysis of sound, as speech synthesis uses it: ``mel(waveform)`` and, nearly, back: ``mel.magnitudes(...)``.

        X_tk = sum_n w_n x_{tH + n} exp(-2 pi i k n / N)         x mirrored at its ends, frame t in the middle of t H
        Y_tm = log10 max(mel_floor, sum_k B_mk max(amplitude_floor, |X_tk|))

    w is Hann's window of win_length samples, H = hop_length, N = n_fft, and B the bank of Slaney's filters from fmin to fmax
    (hertz). A second has sampling_rate / hop_length frames. The values are SpeechT5's; those of others are objects of this
    class (``SPEECHT5``, ``FASTSPEECH2``).
    """

    sampling_rate: int = 16000
    n_fft: int = 1024
    win_length: int = 1024
    hop_length: int = 256
    num_mel_bins: int = 80
    fmin: Number = 80.0
    fmax: Number = 7600.0
    mel_floor: Number = 1e-10
    amplitude_floor: Number = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 <= self.fmin < self.fmax or self.mel_floor <= 0 or self.amplitude_floor < 0:
            raise ValueError(f"expected 0 <= fmin < fmax, mel_floor above 0 and amplitude_floor of at least 0; got {self}")
        if self.win_length > self.n_fft or self.hop_length > self.win_length:
            raise ValueError(
                f"expected hop_length <= win_length <= n_fft, got {self.hop_length}, {self.win_length} and {self.n_fft}"
            )
        if self.num_mel_bins > self.n_fft // 2 + 1:
            raise ValueError(f"{self.num_mel_bins} filters are more than the {self.n_fft // 2 + 1} frequencies of the spectrum")

    @property
    def filters(self) -> Float[Tensor, "mel_bins frequencies"]:
        """B, in float64."""
        return slaney_filters(self.num_mel_bins, self.n_fft, self.sampling_rate, self.fmin, self.fmax)

    def __call__(self, sound: Float[Tensor, "*batch samples"] | Sound) -> Float[Tensor, "*batch frames mel_bins"]:
        """Y, float32, of waveforms, floats (..., samples) at sampling_rate, or of what else a sound may be (inputs/sounds.py):
        a path, (samples, rate), int16. Reckoned in float64; 1 + samples // hop_length frames."""
        plain = isinstance(sound, Tensor) and sound.is_floating_point()
        samples = sound if plain else as_waveform(sound, self.sampling_rate, "the sound")
        waveform = reflected(samples.double(), self.win_length // 2)  # type: ignore[union-attr]
        amplitudes = spectra(waveform, hann(self.win_length).to(waveform), self.hop_length, self.n_fft).abs()
        bands = amplitudes.clamp(min=self.amplitude_floor) @ self.filters.to(waveform).mT
        return bands.clamp(min=self.mel_floor).log10().float()

    def magnitudes(self, log_mel: Float[Tensor, "*batch frames mel_bins"]) -> Float[Tensor, "*batch frames frequencies"]:
        """Magnitudes |X| >= 0 whose mel bands are those of the spectrogram: non-negative least squares, min ||B |X| - 10^Y||.

        There are many such |X|. The one wanted is smooth, as speech is: multiplicative updates (Lee and Seung 2001)
            |X| <- |X| (B^T 10^Y) / (B^T B |X|)
        start from every band spread over its filter and keep what the bands do not tell. For a sentence of LJSpeech that is
        wrong by 22 % of the magnitudes' norm. The pseudo-inverse, cut off at 0, is by 24 %, and its bands by 2.6 %; the
        active-set solution is exact in the bands, but all spikes: 94 %.
        """
        if log_mel.shape[-1] != self.num_mel_bins:
            raise ValueError(f"expected a log-mel spectrogram (..., frames, {self.num_mel_bins}), got {tuple(log_mel.shape)}")
        bands = 10 ** log_mel.to(torch.promote_types(log_mel.dtype, torch.float32))
        bank, tiny = self.filters.to(bands), torch.finfo(bands.dtype).tiny
        shares = bank / bank.sum(dim=0).clamp(min=tiny)
        found = (bands / bank.sum(dim=1).clamp(min=tiny)) @ shares
        wanted, gram = bands @ bank, bank.mT @ bank
        for _ in range(STEPS):
            found = found * wanted / (found @ gram).clamp(min=tiny)
        return found


SPEECHT5 = Mel()
FASTSPEECH2 = Mel(sampling_rate=22050, amplitude_floor=1e-5)  # ESPnet's, for LJSpeech
