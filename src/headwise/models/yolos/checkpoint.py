"""YOLOS's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.vision import published_names
from headwise.models.yolos.config import YolosConfig
from headwise.models.yolos.model import YolosForObjectDetection

KEYS = Keys(
    rows={
        "vit.embeddings.cls_token": "class_token",
        "vit.embeddings.detection_tokens": "detection_tokens",
        "vit.embeddings.position_embeddings": "position_embedding",
        "vit.encoder.mid_position_embeddings": "mid_position_embedding",
        "vit.encoder.layer.{i}.attention.attention.query.{leaf}": "encoder.layers.{i}.self_attention.q_proj.{leaf}",
        "vit.encoder.layer.{i}.attention.attention.key.{leaf}": "encoder.layers.{i}.self_attention.k_proj.{leaf}",
        "vit.encoder.layer.{i}.attention.attention.value.{leaf}": "encoder.layers.{i}.self_attention.v_proj.{leaf}",
        **published_names("vit"),
        "class_labels_classifier.{leaf}": "class_labels_classifier.{leaf}",
        "bbox_predictor.{leaf}": "bbox_predictor.{leaf}",
    },
    prefix="vit.",
    ignored=(r"vit\.pooler\..+",),
    head=(r"class_labels_classifier\.", r"bbox_predictor\."),
)

FORMAT = Format("yolos", YolosConfig, {"YolosForObjectDetection": YolosForObjectDetection}, KEYS)
