"""The translator's own folder: names as they are in the model."""

from headwise.models.checkpoint.format import Format
from headwise.models.conformer_translation.config import ConformerTranslationConfig
from headwise.models.conformer_translation.model import ConformerForSpeechTranslation

FORMAT = Format(
    "conformer_translation", ConformerTranslationConfig, {"ConformerForSpeechTranslation": ConformerForSpeechTranslation}
)
