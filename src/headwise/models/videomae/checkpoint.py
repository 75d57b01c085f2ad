"""VideoMAE's published names: biases of query and value lie beside their projections, the key has none."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.videomae.config import VideoMAEConfig
from headwise.models.videomae.model import VideoMAEForVideoClassification
from headwise.models.vision import published_names

KEYS = Keys(
    rows={
        "videomae.encoder.layer.{i}.attention.attention.query.weight": "encoder.layers.{i}.self_attention.q_proj.weight",
        "videomae.encoder.layer.{i}.attention.attention.key.weight": "encoder.layers.{i}.self_attention.k_proj.weight",
        "videomae.encoder.layer.{i}.attention.attention.value.weight": "encoder.layers.{i}.self_attention.v_proj.weight",
        "videomae.encoder.layer.{i}.attention.attention.q_bias": "encoder.layers.{i}.self_attention.q_proj.bias",
        "videomae.encoder.layer.{i}.attention.attention.v_bias": "encoder.layers.{i}.self_attention.v_proj.bias",
        **published_names("videomae"),
        "fc_norm.{leaf}": "norm.{leaf}",
    },
    ignored=(r"(decoder|encoder_to_decoder)\..+", r"mask_token", r"position_embeddings"),  # of pretraining
    prefix="videomae.",
    head=(r"classifier\.", r"fc_norm\."),
)

FORMAT = Format("videomae", VideoMAEConfig, {"VideoMAEForVideoClassification": VideoMAEForVideoClassification}, KEYS)
