"""FastSpeech 2 and its vocoder in one folder: text becomes sound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from headwise.models.checkpoint.config import Config
from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.fastspeech2_conformer.checkpoint import KEYS as OF_MODEL
from headwise.models.fastspeech2_conformer.config import FastSpeech2ConformerConfig
from headwise.models.fastspeech2_conformer.model import FastSpeech2ConformerModel, FastSpeech2ConformerOutput
from headwise.models.hifigan.checkpoint import KEYS as OF_VOCODER
from headwise.models.hifigan.config import FastSpeech2ConformerHifiGanConfig
from headwise.models.hifigan.model import FastSpeech2ConformerHifiGan
from headwise.models.interface import exported


@dataclass(frozen=True, kw_only=True)
class FastSpeech2ConformerWithHifiGanConfig(Config):
    """config.json of a FastSpeech2ConformerWithHifiGan: its parts'."""

    model_config: FastSpeech2ConformerConfig = field(default_factory=FastSpeech2ConformerConfig)
    vocoder_config: FastSpeech2ConformerHifiGanConfig = field(default_factory=FastSpeech2ConformerHifiGanConfig)


@exported
@dataclass
class FastSpeech2ConformerWithHifiGanOutput(FastSpeech2ConformerOutput):
    """With the waveform (batch, samples)."""

    waveform: Tensor | None = None


class FastSpeech2ConformerWithHifiGan(nn.Module):
    """``model`` says a spectrogram, ``vocoder`` makes it a sound.

    In a batch the vocoder reads on past the end of the shorter texts, and the last frames before it hear that; texts one by
    one: hw.synthesise(both.model, ..., vocoder=both.vocoder).
    """

    def __init__(self, config: FastSpeech2ConformerWithHifiGanConfig) -> None:
        super().__init__()
        self.config = config
        self.model = FastSpeech2ConformerModel(config.model_config)
        self.vocoder = FastSpeech2ConformerHifiGan(config.vocoder_config)

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Tensor | None = None, **rest: Any
    ) -> FastSpeech2ConformerWithHifiGanOutput:
        """What ``model`` gives for the same, and its sound."""
        output = self.model(input_ids, attention_mask, **rest)
        return FastSpeech2ConformerWithHifiGanOutput(**vars(output), waveform=self.vocoder(output.spectrogram))


KEYS = Keys(
    rows={
        f"{part}.{published}": f"{part}.{ours}"
        for part, keys in (("model", OF_MODEL), ("vocoder", OF_VOCODER))
        for published, ours in keys.rows.items()
    }
)
FORMAT = Format(
    "fastspeech2_conformer_with_hifigan",
    FastSpeech2ConformerWithHifiGanConfig,
    {"FastSpeech2ConformerWithHifiGan": FastSpeech2ConformerWithHifiGan},
    KEYS,
)
