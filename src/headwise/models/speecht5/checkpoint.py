"""SpeechT5ForTextToSpeech's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.speecht5.config import SpeechT5Config
from headwise.models.speecht5.model import SpeechT5ForTextToSpeech

ENCODER, DECODER = "speecht5.encoder.wrapped_encoder", "speecht5.decoder.wrapped_decoder"

KEYS = Keys(
    rows={
        "speecht5.encoder.prenet.embed_tokens.weight": "embedding.weight",
        "speecht5.encoder.prenet.encode_positions.alpha": "text_positions.alpha",
        f"{ENCODER}.layer_norm.{{leaf}}": "norm.{leaf}",
        f"{ENCODER}.embed_positions.pe_k.weight": "relative_keys.weight",
        f"{ENCODER}.layers.{{i}}.attention.{{leaf}}": "encoder.layers.{i}.self_attention.{leaf}",
        f"{ENCODER}.layers.{{i}}.layer_norm.{{leaf}}": "encoder.layers.{i}.residuals.0.norm.{leaf}",
        f"{ENCODER}.layers.{{i}}.feed_forward.intermediate_dense.{{leaf}}": "encoder.layers.{i}.feed_forward.expand.{leaf}",
        f"{ENCODER}.layers.{{i}}.feed_forward.output_dense.{{leaf}}": "encoder.layers.{i}.feed_forward.contract.{leaf}",
        f"{ENCODER}.layers.{{i}}.final_layer_norm.{{leaf}}": "encoder.layers.{i}.residuals.1.norm.{leaf}",
        "speecht5.decoder.prenet.layers.{i}.{leaf}": "prenet.layers.{i}.{leaf}",
        "speecht5.decoder.prenet.final_layer.{leaf}": "prenet.contract.{leaf}",
        "speecht5.decoder.prenet.encode_positions.alpha": "prenet.positions.alpha",
        "speecht5.decoder.prenet.speaker_embeds_layer.{leaf}": "prenet.voice.{leaf}",
        f"{DECODER}.layers.{{i}}.self_attn.{{leaf}}": "decoder.layers.{i}.self_attention.{leaf}",
        f"{DECODER}.layers.{{i}}.self_attn_layer_norm.{{leaf}}": "decoder.layers.{i}.residuals.0.norm.{leaf}",
        f"{DECODER}.layers.{{i}}.encoder_attn.{{leaf}}": "decoder.layers.{i}.cross_attention.{leaf}",
        f"{DECODER}.layers.{{i}}.encoder_attn_layer_norm.{{leaf}}": "decoder.layers.{i}.residuals.1.norm.{leaf}",
        f"{DECODER}.layers.{{i}}.feed_forward.intermediate_dense.{{leaf}}": "decoder.layers.{i}.feed_forward.expand.{leaf}",
        f"{DECODER}.layers.{{i}}.feed_forward.output_dense.{{leaf}}": "decoder.layers.{i}.feed_forward.contract.{leaf}",
        f"{DECODER}.layers.{{i}}.final_layer_norm.{{leaf}}": "decoder.layers.{i}.residuals.2.norm.{leaf}",
        "speech_decoder_postnet.feat_out.{leaf}": "feat_out.{leaf}",
        "speech_decoder_postnet.prob_out.{leaf}": "prob_out.{leaf}",
        "speech_decoder_postnet.layers.{i}.conv.weight": "postnet.convolutions.{i}.weight",
        "speech_decoder_postnet.layers.{i}.batch_norm.{leaf}": "postnet.norms.{i}.{leaf}",
    },
    ignored=(r"speecht5\.(en|de)coder\.prenet\.encode_positions\.pe",),  # computed
)

FORMAT = Format("speecht5", SpeechT5Config, {"SpeechT5ForTextToSpeech": SpeechT5ForTextToSpeech}, KEYS)
