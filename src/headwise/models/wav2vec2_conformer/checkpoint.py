"""Wav2Vec2ConformerForCTC's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.wav2vec2_conformer.config import Wav2Vec2ConformerConfig
from headwise.models.wav2vec2_conformer.model import Wav2Vec2ConformerForCTC

LAYER = "wav2vec2_conformer.encoder.layers.{i}"

KEYS = Keys(
    rows={
        "wav2vec2_conformer.masked_spec_embed": "masked_spec_embed",
        "wav2vec2_conformer.feature_extractor.conv_layers.{i}.conv.{leaf}": "features.{i}.convolution.{leaf}",
        "wav2vec2_conformer.feature_extractor.conv_layers.{i}.layer_norm.{leaf}": "features.{i}.norm.{leaf}",
        "wav2vec2_conformer.feature_projection.layer_norm.{leaf}": "projection.0.{leaf}",
        "wav2vec2_conformer.feature_projection.projection.{leaf}": "projection.1.{leaf}",
        "wav2vec2_conformer.encoder.pos_conv_embed.conv.bias": "unused.bias",
        "wav2vec2_conformer.encoder.pos_conv_embed.conv.parametrizations.weight.original{i}": "unused.original{i}",
        "wav2vec2_conformer.encoder.embed_positions.inv_freq": "inv_freq",
        f"{LAYER}.ffn1_layer_norm.{{leaf}}": "encoder.layers.{i}.residuals.0.norm.{leaf}",
        f"{LAYER}.ffn1.intermediate_dense.{{leaf}}": "encoder.layers.{i}.feed_forwards.0.expand.{leaf}",
        f"{LAYER}.ffn1.output_dense.{{leaf}}": "encoder.layers.{i}.feed_forwards.0.contract.{leaf}",
        f"{LAYER}.self_attn_layer_norm.{{leaf}}": "encoder.layers.{i}.residuals.1.norm.{leaf}",
        f"{LAYER}.self_attn.linear_q.{{leaf}}": "encoder.layers.{i}.self_attention.q_proj.{leaf}",
        f"{LAYER}.self_attn.linear_k.{{leaf}}": "encoder.layers.{i}.self_attention.k_proj.{leaf}",
        f"{LAYER}.self_attn.linear_v.{{leaf}}": "encoder.layers.{i}.self_attention.v_proj.{leaf}",
        f"{LAYER}.self_attn.linear_out.{{leaf}}": "encoder.layers.{i}.self_attention.out_proj.{leaf}",
        f"{LAYER}.self_attn.linear_pos.weight": "encoder.layers.{i}.self_attention.position.proj.weight",
        f"{LAYER}.self_attn.pos_bias_u": "encoder.layers.{i}.self_attention.position.u",
        f"{LAYER}.self_attn.pos_bias_v": "encoder.layers.{i}.self_attention.position.v",
        f"{LAYER}.conv_module.layer_norm.{{leaf}}": "encoder.layers.{i}.residuals.2.norm.{leaf}",
        f"{LAYER}.conv_module.pointwise_conv1.{{leaf}}": "encoder.layers.{i}.convolution.expand.{leaf}",
        f"{LAYER}.conv_module.depthwise_conv.{{leaf}}": "encoder.layers.{i}.convolution.depthwise.{leaf}",
        f"{LAYER}.conv_module.batch_norm.{{leaf}}": "encoder.layers.{i}.convolution.norm.{leaf}",
        f"{LAYER}.conv_module.pointwise_conv2.{{leaf}}": "encoder.layers.{i}.convolution.contract.{leaf}",
        f"{LAYER}.ffn2_layer_norm.{{leaf}}": "encoder.layers.{i}.residuals.3.norm.{leaf}",
        f"{LAYER}.ffn2.intermediate_dense.{{leaf}}": "encoder.layers.{i}.feed_forwards.1.expand.{leaf}",
        f"{LAYER}.ffn2.output_dense.{{leaf}}": "encoder.layers.{i}.feed_forwards.1.contract.{leaf}",
        f"{LAYER}.final_layer_norm.{{leaf}}": "encoder.layers.{i}.norm.{leaf}",
        "wav2vec2_conformer.encoder.layer_norm.{leaf}": "encoder.norm.{leaf}",
        "lm_head.{leaf}": "lm_head.{leaf}",
    },
    ignored=(r"quantizer\..+", r"project_(q|hid)\..+"),  # of pretraining
    renamed={".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"},
    prefix="wav2vec2_conformer.",
    head=(r"lm_head\.",),
)

FORMAT = Format("wav2vec2-conformer", Wav2Vec2ConformerConfig, {"Wav2Vec2ConformerForCTC": Wav2Vec2ConformerForCTC}, KEYS)
