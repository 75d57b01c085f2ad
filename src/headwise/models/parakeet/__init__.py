"""Parakeet (NVIDIA's FastConformer with CTC): speech recognition that reads spectra."""

from headwise.models.parakeet.config import ParakeetCTCConfig, ParakeetEncoderConfig
from headwise.models.parakeet.model import ParakeetForCTC

__all__ = ["ParakeetCTCConfig", "ParakeetEncoderConfig", "ParakeetForCTC"]
