"""Speech2Text, which transcribes and translates speech."""

from headwise.models.speech_to_text.config import Speech2TextConfig
from headwise.models.speech_to_text.model import Speech2TextForConditionalGeneration

__all__ = ["Speech2TextConfig", "Speech2TextForConditionalGeneration"]
