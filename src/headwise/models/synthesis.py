"""Speech out of text: what models share that say a spectrogram.

hw.synthesise(model, **tokenizer(texts), speaker_embeddings=voice)                   log-mel spectrograms, one per text
hw.synthesise(model, **tokenizer(texts), speaker_embeddings=voice, vocoder=hifigan)  waveforms
hw.synthesise(model, **tokenizer(texts), vocoder=lambda x: hw.speech.griffin_lim(x, hw.speech.FASTSPEECH2))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headwise.blocks.conformer import without_padding
from headwise.models.interface import described, exported, padding

Spectrogram = Float[Tensor, "batch frames mel_bins"]


@exported
@dataclass
class SpectrogramOutput:
    """spectrogram (batch, frames, mel_bins), log-mel, as it is after the postnet; the encoder's last hidden state; loss where
    labels were given."""

    spectrogram: Tensor
    encoder_last_hidden_state: Tensor
    loss: Tensor | None = None


class Postnet(nn.Module):
    """x + what convolutions over time make of it (Shen et al. 2018, section 2.2): detail that frame by frame was missed.

    Each without a bias, then batch norm, tanh (not after the last) and dropout, ``units`` channels between the first and the
    last. kernel_size: odd, so that the middle is a place.
    """

    def __init__(self, mel_bins: int, units: int, num_layers: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size of the postnet: expected an odd number; got {kernel_size}")
        widths = [mel_bins, *[units] * (num_layers - 1), mel_bins]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
            for inputs, outputs in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Spectrogram, real: Bool[Tensor, "batch frames"] | None = None) -> Spectrogram:
        """real: the frames that are no padding; the convolutions read zeros for others. None: all are read."""
        y, last = x.mT, len(self.norms) - 1
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(convolution(without_padding(y, real)))
            y = self.dropout(y if i == last else y.tanh())
        return x + y.mT


def masked_mean(x: Float[Tensor, "*shape"], real: Bool[Tensor, "*#shape"]) -> Float[Tensor, ""]:
    """The mean of x over the places that are ``real``, which broadcasts."""
    return x.where(real, 0.0).sum() / real.expand_as(x).sum()


def spectrogram_loss(
    before: Spectrogram, after: Spectrogram, labels: Spectrogram, real: Bool[Tensor, "batch frames #mel_bins"]
) -> Float[Tensor, ""]:
    """The mean absolute error before the postnet, and that after it."""
    return masked_mean((before - labels).abs(), real) + masked_mean((after - labels).abs(), real)


class Synthesiser(nn.Module, ABC):
    """A model that says a spectrogram of tokens."""

    @abstractmethod
    def synthesise(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Tensor | None = None
    ) -> list[Float[Tensor, "frames mel_bins"]]:
        """What is said of every row: log-mel spectrograms of as many frames each as it takes. A model takes further wishes by
        name: a voice, a pace, when to stop."""


@torch.no_grad()
def synthesise(
    model: nn.Module,
    input_ids: Int[Tensor, "batch length"],
    attention_mask: Tensor | None = None,
    *,
    vocoder: Callable[[Tensor], Tensor] | None = None,
    **wishes: Any,
) -> list[Tensor]:
    """Texts as speech: one log-mel spectrogram (frames, mel_bins) per row of input_ids, or what ``vocoder`` makes of it, one by
    one: a waveform (samples,).

    attention_mask: true or 1 = a real token. wishes: what the model's own ``synthesise`` takes besides, such as SpeechT5's
    speaker_embeddings, max_ratio (frames for a token), prenet_dropout and seed. Raises ValueError where the model trains or
    does not say spectrograms, or input_ids are no tokens.
    """
    if not isinstance(model, Synthesiser):
        raise ValueError(f"{type(model).__name__} does not synthesise: it says no spectrogram")
    if model.training:
        raise ValueError("model: expected in eval mode, model.eval()")
    tokens = isinstance(input_ids, Tensor) and input_ids.dim() == 2 and not input_ids.is_floating_point()
    if not tokens or not input_ids.numel():
        raise ValueError(f"input_ids: expected tokens, (batch, length); got {described(input_ids)}")
    padding(attention_mask, input_ids)
    if attention_mask is not None and not attention_mask.any():
        raise ValueError("attention_mask: no token is real")
    said = model.synthesise(input_ids, attention_mask, **wishes)
    return said if vocoder is None else [vocoder(spectrogram) for spectrogram in said]
