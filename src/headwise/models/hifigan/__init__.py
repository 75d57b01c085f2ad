"""HiFi-GAN, a vocoder: log-mel spectrograms become sound."""

from headwise.models.hifigan.config import FastSpeech2ConformerHifiGanConfig, HifiGanConfig, SpeechT5HifiGanConfig
from headwise.models.hifigan.model import FastSpeech2ConformerHifiGan, HifiGan, SpeechT5HifiGan

__all__ = [
    "FastSpeech2ConformerHifiGan",
    "FastSpeech2ConformerHifiGanConfig",
    "HifiGan",
    "HifiGanConfig",
    "SpeechT5HifiGan",
    "SpeechT5HifiGanConfig",
]
