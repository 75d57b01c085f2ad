"""Speech out of spectrograms.

    waveform = hw.speech.griffin_lim(spectrogram, hw.speech.SPEECHT5)
    hw.speech.save(waveform, "said.wav", sampling_rate=16000)

A synthesiser says a log-mel spectrogram; which one is said by an analysis, ``Mel``: SPEECHT5 and FASTSPEECH2 are those of the
published models, and ``hw.speech.FASTSPEECH2(waveform)`` is what the model would have to say.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwise.models.checkpoint.folder import write
from headwise.models.inputs.spectrograms import FASTSPEECH2, SPEECHT5, Mel, hann

__all__ = ["FASTSPEECH2", "SPEECHT5", "Mel", "griffin_lim", "save"]


@torch.no_grad()
def griffin_lim(
    spectrogram: Float[Tensor, "*batch frames mel_bins"],
    mel: Mel,
    *,
    iterations: int = 32,
    momentum: float = 0.99,
    seed: int | None = 0,
) -> Float[Tensor, "*batch samples"]:
    """A waveform with that log-mel spectrogram: (..., (frames - 1) hop_length) samples at mel.sampling_rate.

    A spectrogram has no phases. From random ones, spectra c with the magnitudes S = mel.magnitudes(spectrogram) become those of
    a sound, and get their magnitudes back, and so on (Griffin and Lim 1984), here with a momentum a (Perraudin et al. 2013):
        t_n = STFT(ISTFT(c_{n-1})),   d_n = t_n + a (t_n - t_{n-1}),   c_n = S d_n / |d_n|
    With momentum=0 ||t_n| - S| never grows; with 0.99 it falls further in as many iterations, if not in each. seed: of the
    first phases; None = torch's own random numbers. Raises ValueError for what none of these can be.
    """
    if type(iterations) is not int or iterations < 0 or not 0 <= momentum < math.inf:
        raise ValueError(f"expected iterations and a momentum of at least 0, got {iterations!r} and {momentum!r}")
    if 2 * mel.hop_length > mel.win_length:
        raise ValueError(
            f"hop_length {mel.hop_length}: expected at most half of win_length {mel.win_length}, to come back from it"
        )
    magnitudes = mel.magnitudes(spectrogram).mT  # (*batch, frequencies, frames), torch's order
    if magnitudes.shape[-1] < 2 or not magnitudes.numel():
        raise ValueError(f"expected a spectrogram of at least two frames, got {tuple(spectrogram.shape)}")
    if not magnitudes.isfinite().all():
        raise ValueError("the spectrogram holds nan, or more than a logarithm to the base of 10 can be")
    batch, target = magnitudes.shape[:-2], magnitudes.flatten(0, -3) if magnitudes.ndim > 3 else magnitudes
    transform = mel.n_fft, mel.hop_length, mel.win_length, hann(mel.win_length).to(target)
    generator = None if seed is None else torch.Generator(target.device).manual_seed(seed)
    angles = torch.rand(target.shape, generator=generator, device=target.device, dtype=target.dtype)
    spectrum, before = torch.polar(target, 2 * math.pi * angles), target.new_zeros(())
    for _ in range(iterations):
        waveform = torch.istft(spectrum, *transform)
        # Zeros beyond the ends, so that there and back is a projection: without it the distance could grow.
        now = torch.stft(waveform, *transform, pad_mode="constant", return_complex=True)
        pushed = now + momentum * (now - before)
        spectrum, before = target * pushed / pushed.abs().clamp(min=torch.finfo(target.dtype).tiny), now
    return torch.istft(spectrum, *transform).reshape(*batch, -1)


def save(waveform: Float[Tensor, " samples"] | np.ndarray, path: str | os.PathLike[str], sampling_rate: int) -> None:
    """Writes one channel as a WAV file of 16 bits, moved in whole; what is beyond -1 or 1 is cut off there."""
    samples = torch.as_tensor(waveform).detach().cpu().float()
    if samples.ndim != 1 or not samples.numel() or not samples.isfinite().all():
        raise ValueError(f"expected finite samples of one channel, (samples,), got {tuple(samples.shape)}")
    if type(sampling_rate) is not int or sampling_rate < 1:
        raise ValueError(f"sampling_rate: expected samples a second, got {sampling_rate!r}")
    if Path(path).suffix.lower() != ".wav":
        raise ValueError(f"{path}: expected a name that ends in .wav")
    import soundfile

    write(Path(path), lambda place: soundfile.write(place, samples.numpy(), sampling_rate, "PCM_16", format="WAV"))
