"""MarianMTModel's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.marian.config import MarianConfig
from headwise.models.marian.model import MarianMTModel

KEYS = Keys(
    rows={
        "final_logits_bias": "final_logits_bias",
        "lm_head.weight": "lm_head.weight",
        "model.shared.weight": "embedding.weight",
        "model.encoder.embed_tokens.weight": "source_embedding.weight",
        "model.decoder.embed_tokens.weight": "target_embedding.weight",
        "model.encoder.layers.{i}.self_attn.{leaf}": "encoder.layers.{i}.self_attention.{leaf}",
        "model.encoder.layers.{i}.self_attn_layer_norm.{leaf}": "encoder.layers.{i}.residuals.0.norm.{leaf}",
        "model.encoder.layers.{i}.fc1.{leaf}": "encoder.layers.{i}.feed_forward.expand.{leaf}",
        "model.encoder.layers.{i}.fc2.{leaf}": "encoder.layers.{i}.feed_forward.contract.{leaf}",
        "model.encoder.layers.{i}.final_layer_norm.{leaf}": "encoder.layers.{i}.residuals.1.norm.{leaf}",
        "model.decoder.layers.{i}.self_attn.{leaf}": "decoder.layers.{i}.self_attention.{leaf}",
        "model.decoder.layers.{i}.self_attn_layer_norm.{leaf}": "decoder.layers.{i}.residuals.0.norm.{leaf}",
        "model.decoder.layers.{i}.encoder_attn.{leaf}": "decoder.layers.{i}.cross_attention.{leaf}",
        "model.decoder.layers.{i}.encoder_attn_layer_norm.{leaf}": "decoder.layers.{i}.residuals.1.norm.{leaf}",
        "model.decoder.layers.{i}.fc1.{leaf}": "decoder.layers.{i}.feed_forward.expand.{leaf}",
        "model.decoder.layers.{i}.fc2.{leaf}": "decoder.layers.{i}.feed_forward.contract.{leaf}",
        "model.decoder.layers.{i}.final_layer_norm.{leaf}": "decoder.layers.{i}.residuals.2.norm.{leaf}",
    },
    tied={
        "lm_head.weight": ("model.shared.weight", "model.decoder.embed_tokens.weight"),
        "model.encoder.embed_tokens.weight": ("model.shared.weight",),
        "model.decoder.embed_tokens.weight": ("model.shared.weight",),
    },
    ignored=(r"model\.(en|de)coder\.embed_positions\.weight",),  # computed
)

FORMAT = Format("marian", MarianConfig, {"MarianMTModel": MarianMTModel}, KEYS)
