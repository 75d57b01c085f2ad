"""Whisper, which transcribes speech and translates it to English."""

from headwise.models.whisper.config import WhisperConfig
from headwise.models.whisper.model import WhisperForConditionalGeneration

__all__ = ["WhisperConfig", "WhisperForConditionalGeneration"]
