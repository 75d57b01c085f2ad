"""FastSpeech2ConformerModel's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.fastspeech2_conformer.config import FastSpeech2ConformerConfig
from headwise.models.fastspeech2_conformer.model import FastSpeech2ConformerModel

# Of a layer; the same in both stacks.
LAYER = {
    "self_attn.linear_q.{leaf}": "self_attention.q_proj.{leaf}",
    "self_attn.linear_k.{leaf}": "self_attention.k_proj.{leaf}",
    "self_attn.linear_v.{leaf}": "self_attention.v_proj.{leaf}",
    "self_attn.linear_out.{leaf}": "self_attention.out_proj.{leaf}",
    "self_attn.linear_pos.weight": "self_attention.position.proj.weight",
    "self_attn.pos_bias_u": "self_attention.position.u",
    "self_attn.pos_bias_v": "self_attention.position.v",
    "feed_forward_macaron.conv1.{leaf}": "feed_forwards.0.expand.{leaf}",
    "feed_forward_macaron.conv2.{leaf}": "feed_forwards.0.contract.{leaf}",
    "feed_forward.conv1.{leaf}": "feed_forwards.1.expand.{leaf}",
    "feed_forward.conv2.{leaf}": "feed_forwards.1.contract.{leaf}",
    "conv_module.pointwise_conv1.{leaf}": "convolution.expand.{leaf}",
    "conv_module.depthwise_conv.{leaf}": "convolution.depthwise.{leaf}",
    "conv_module.norm.{leaf}": "convolution.norm.{leaf}",
    "conv_module.pointwise_conv2.{leaf}": "convolution.contract.{leaf}",
    "ff_macaron_layer_norm.{leaf}": "residuals.0.norm.{leaf}",
    "self_attn_layer_norm.{leaf}": "residuals.1.norm.{leaf}",
    "conv_layer_norm.{leaf}": "residuals.2.norm.{leaf}",
    "ff_layer_norm.{leaf}": "residuals.3.norm.{leaf}",
    "final_layer_norm.{leaf}": "norm.{leaf}",
}
PREDICTOR = {
    "conv_layers.{i}.conv.{leaf}": "convolutions.{i}.{leaf}",
    "conv_layers.{i}.layer_norm.{leaf}": "norms.{i}.{leaf}",
    "linear.{leaf}": "linear.{leaf}",
}

KEYS = Keys(
    rows={
        "encoder.embed.weight": "embedding.weight",
        "speaker_id_embedding.weight": "speaker_embedding.weight",
        "language_id_embedding.weight": "language_embedding.weight",
        "projection.{leaf}": "voice.{leaf}",
        **{
            f"{side}.conformer_layers.{{i}}.{published}": f"{side}.layers.{{i}}.{ours}"
            for side in ("encoder", "decoder")
            for published, ours in LAYER.items()
        },
        **{
            f"{what}_predictor.{published}": f"{what}_predictor.{ours}"
            for what in ("duration", "pitch", "energy")
            for published, ours in PREDICTOR.items()
        },
        "pitch_embed.conv.{leaf}": "pitch_embedding.{leaf}",
        "energy_embed.conv.{leaf}": "energy_embedding.{leaf}",
        "speech_decoder_postnet.feat_out.{leaf}": "spectrogram.{leaf}",
        "speech_decoder_postnet.layers.{i}.conv.{leaf}": "postnet.convolutions.{i}.{leaf}",
        "speech_decoder_postnet.layers.{i}.batch_norm.{leaf}": "postnet.norms.{i}.{leaf}",
    },
)

FORMAT = Format(
    "fastspeech2_conformer", FastSpeech2ConformerConfig, {"FastSpeech2ConformerModel": FastSpeech2ConformerModel}, KEYS
)
