"""Speech2TextForConditionalGeneration's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import FAIRSEQ_LAYERS, Keys
from headwise.models.speech_to_text.config import Speech2TextConfig
from headwise.models.speech_to_text.model import Speech2TextForConditionalGeneration

KEYS = Keys(
    rows={
        "lm_head.weight": "lm_head.weight",
        "model.decoder.embed_tokens.weight": "embedding.weight",
        "model.encoder.conv.conv_layers.{i}.{leaf}": "subsampling.convolutions.{i}.{leaf}",
        "model.encoder.layer_norm.{leaf}": "encoder.norm.{leaf}",
        "model.decoder.layer_norm.{leaf}": "decoder.norm.{leaf}",
        **FAIRSEQ_LAYERS,
    },
    tied={"lm_head.weight": ("model.decoder.embed_tokens.weight",)},
    ignored=(r"model\.(en|de)coder\.embed_positions\.weights",),  # computed
)

FORMAT = Format(
    "speech_to_text", Speech2TextConfig, {"Speech2TextForConditionalGeneration": Speech2TextForConditionalGeneration}, KEYS
)
