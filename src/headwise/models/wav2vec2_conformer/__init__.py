"""wav2vec 2.0 with a Conformer (Wang et al. 2021): speech recognition that reads samples."""

from headwise.models.wav2vec2_conformer.config import Wav2Vec2ConformerConfig
from headwise.models.wav2vec2_conformer.model import Wav2Vec2ConformerForCTC

__all__ = ["Wav2Vec2ConformerConfig", "Wav2Vec2ConformerForCTC"]
