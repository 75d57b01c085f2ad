"""ViT's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.vision import published_names
from headwise.models.vit.config import ViTConfig
from headwise.models.vit.model import ViTForImageClassification

KEYS = Keys(
    rows={
        "vit.embeddings.cls_token": "class_token",
        "vit.embeddings.position_embeddings": "position_embedding",
        "vit.encoder.layer.{i}.attention.attention.query.{leaf}": "encoder.layers.{i}.self_attention.q_proj.{leaf}",
        "vit.encoder.layer.{i}.attention.attention.key.{leaf}": "encoder.layers.{i}.self_attention.k_proj.{leaf}",
        "vit.encoder.layer.{i}.attention.attention.value.{leaf}": "encoder.layers.{i}.self_attention.v_proj.{leaf}",
        **published_names("vit"),
    },
    ignored=(r"vit\.pooler\..+", r"vit\.embeddings\.mask_token"),
    prefix="vit.",
    head=(r"classifier\.",),
)

FORMAT = Format("vit", ViTConfig, {"ViTForImageClassification": ViTForImageClassification}, KEYS)
