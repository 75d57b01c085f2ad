"""TimeSformer's published names: query, key and value lie in one tensor, over time and over space."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys, Stored
from headwise.models.timesformer.config import TimesformerConfig
from headwise.models.timesformer.model import TimesformerForVideoClassification
from headwise.models.vision import published_names

LAYER = "timesformer.encoder.layer.{i}"


def _fused(attention: str, leaf: str = "{leaf}") -> Stored:
    return Stored(tuple(f"encoder.layers.{{i}}.{attention}.{part}_proj.{leaf}" for part in "qkv"))


# Attention over space in layers that have one over time too; elsewhere it is the layer's only one, under the same names.
SPATIAL = {f"{LAYER}.attention.attention.qkv.{leaf}": _fused("spatial_attention", leaf) for leaf in ("weight", "bias")} | {
    f"{LAYER}.attention.output.dense.{leaf}": f"encoder.layers.{{i}}.spatial_attention.out_proj.{leaf}"
    for leaf in ("weight", "bias")
}


KEYS = Keys(
    rows={
        "timesformer.embeddings.cls_token": "class_token",
        "timesformer.embeddings.position_embeddings": "position_embedding",
        "timesformer.embeddings.time_embeddings": "time_embedding",
        f"{LAYER}.temporal_layernorm.{{leaf}}": "encoder.layers.{i}.temporal_norm.{leaf}",
        f"{LAYER}.temporal_attention.attention.qkv.{{leaf}}": _fused("temporal_attention"),
        f"{LAYER}.temporal_attention.output.dense.{{leaf}}": "encoder.layers.{i}.temporal_attention.out_proj.{leaf}",
        f"{LAYER}.temporal_dense.{{leaf}}": "encoder.layers.{i}.temporal_dense.{leaf}",
        **SPATIAL,
        f"{LAYER}.attention.attention.qkv.{{leaf}}": _fused("self_attention"),
        **published_names("timesformer"),
    },
    prefix="timesformer.",
    head=(r"classifier\.",),
)

FORMAT = Format(
    "timesformer", TimesformerConfig, {"TimesformerForVideoClassification": TimesformerForVideoClassification}, KEYS
)
