"""Conformer speech translation: Parakeet's encoder with Speech2Text's decoder."""

from headwise.models.conformer_translation.config import ConformerTranslationConfig
from headwise.models.conformer_translation.model import ConformerForSpeechTranslation

__all__ = ["ConformerForSpeechTranslation", "ConformerTranslationConfig"]
