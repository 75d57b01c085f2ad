"""Conformer speech translation: Parakeet's encoder with Speech2Text's decoder."""

from headwise.models.conformer_translation.config import ConformerTranslationConfig
from headwise.models.conformer_translation.model import ConformerForSpeechTranslation
from headwise.models.parakeet import ParakeetEncoderConfig
from headwise.models.speech_to_text import Speech2TextDecoderConfig

__all__ = [
    "ConformerForSpeechTranslation",
    "ConformerTranslationConfig",
    "ParakeetEncoderConfig",
    "Speech2TextDecoderConfig",
]
