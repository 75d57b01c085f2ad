"""SpeechT5 (Ao et al. 2022), which speaks: text and a voice in, a spectrogram out."""

from headwise.models.speecht5.config import SpeechT5Config
from headwise.models.speecht5.model import SpeechT5ForTextToSpeech

__all__ = ["SpeechT5Config", "SpeechT5ForTextToSpeech"]
