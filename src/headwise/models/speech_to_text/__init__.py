"""Speech2Text, which transcribes and translates speech."""

from headwise.models.speech_to_text.config import Speech2TextConfig, Speech2TextDecoderConfig
from headwise.models.speech_to_text.model import Speech2TextForConditionalGeneration

__all__ = ["Speech2TextConfig", "Speech2TextDecoderConfig", "Speech2TextForConditionalGeneration"]
