"""WhisperForConditionalGeneration's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import FAIRSEQ_LAYERS, Keys
from headwise.models.whisper.config import WhisperConfig
from headwise.models.whisper.model import WhisperForConditionalGeneration

KEYS = Keys(
    rows={
        "proj_out.weight": "proj_out.weight",
        "model.encoder.conv1.{leaf}": "convolutions.0.{leaf}",
        "model.encoder.conv2.{leaf}": "convolutions.1.{leaf}",
        "model.encoder.embed_positions.weight": "source_positions",
        "model.encoder.layer_norm.{leaf}": "encoder.norm.{leaf}",
        "model.decoder.embed_tokens.weight": "embedding.weight",
        "model.decoder.embed_positions.weight": "target_positions.weight",
        "model.decoder.layer_norm.{leaf}": "decoder.norm.{leaf}",
        **FAIRSEQ_LAYERS,
    },
    tied={"proj_out.weight": ("model.decoder.embed_tokens.weight",)},
)

FORMAT = Format("whisper", WhisperConfig, {"WhisperForConditionalGeneration": WhisperForConditionalGeneration}, KEYS)
