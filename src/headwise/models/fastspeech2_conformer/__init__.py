"""FastSpeech 2, with Conformers: it says all frames of a spectrogram at once."""

from headwise.models.fastspeech2_conformer.config import FastSpeech2ConformerConfig
from headwise.models.fastspeech2_conformer.model import FastSpeech2ConformerModel

__all__ = ["FastSpeech2ConformerConfig", "FastSpeech2ConformerModel"]
