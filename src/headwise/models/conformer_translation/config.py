"""The numbers that make a Conformer that translates speech."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headwise.models.checkpoint.config import Config
from headwise.models.parakeet.config import ParakeetEncoderConfig
from headwise.models.speech_to_text.config import Speech2TextDecoderConfig


@dataclass(frozen=True, kw_only=True)
class ConformerTranslationConfig(Config):
    """The halves by the entries of their published models: ``encoder`` as in a ParakeetForCTC's encoder_config, ``decoder`` as
    in a Speech2TextForConditionalGeneration.

    ctc_weight, label_smoothing: of the loss; with ctc_weight 0 there is no head for CTC.
    """

    encoder: ParakeetEncoderConfig = field(default_factory=ParakeetEncoderConfig)
    decoder: Speech2TextDecoderConfig = field(default_factory=Speech2TextDecoderConfig)
    ctc_weight: float = 0.3
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ctc_weight <= 1:
            raise ValueError(f"ctc_weight: expected a number in [0, 1]; got {self.ctc_weight}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a number in [0, 1); got {self.label_smoothing}")

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> ConformerTranslationConfig:
        config = super().from_entries(entries)
        if config.other:  # the format is ours alone: what is unknown is wrong
            raise ValueError(f"unknown entries {', '.join(sorted(config.other))}")
        return config

    @property
    def pad_token_id(self) -> int:
        return self.decoder.pad_token_id

    @property
    def eos_token_id(self) -> int | list[int]:
        return self.decoder.eos_token_id

    @property
    def decoder_start_token_id(self) -> int:
        return self.decoder.decoder_start_token_id
