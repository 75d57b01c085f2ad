"""MarianMTModel's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import FAIRSEQ_LAYERS, Keys
from headwise.models.marian.config import MarianConfig
from headwise.models.marian.model import MarianMTModel

KEYS = Keys(
    rows={
        "final_logits_bias": "final_logits_bias",
        "lm_head.weight": "lm_head.weight",
        "model.shared.weight": "embedding.weight",
        "model.encoder.embed_tokens.weight": "source_embedding.weight",
        "model.decoder.embed_tokens.weight": "target_embedding.weight",
        **FAIRSEQ_LAYERS,
    },
    tied={
        "lm_head.weight": ("model.shared.weight", "model.decoder.embed_tokens.weight"),
        "model.encoder.embed_tokens.weight": ("model.shared.weight",),
        "model.decoder.embed_tokens.weight": ("model.shared.weight",),
    },
    ignored=(r"model\.(en|de)coder\.embed_positions\.weight",),  # computed
)

FORMAT = Format("marian", MarianConfig, {"MarianMTModel": MarianMTModel}, KEYS)
