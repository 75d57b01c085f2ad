"""ParakeetForCTC's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.parakeet.config import ParakeetCTCConfig
from headwise.models.parakeet.model import ParakeetForCTC

KEYS = Keys(
    rows={
        "encoder.subsampling.{leaf}": "encoder.subsampling.{leaf}",
        "encoder.layers.{i}.norm_feed_forward1.{leaf}": "encoder.layers.{i}.residuals.0.norm.{leaf}",
        "encoder.layers.{i}.feed_forward1.linear1.{leaf}": "encoder.layers.{i}.feed_forwards.0.expand.{leaf}",
        "encoder.layers.{i}.feed_forward1.linear2.{leaf}": "encoder.layers.{i}.feed_forwards.0.contract.{leaf}",
        "encoder.layers.{i}.norm_self_att.{leaf}": "encoder.layers.{i}.residuals.1.norm.{leaf}",
        "encoder.layers.{i}.self_attn.q_proj.{leaf}": "encoder.layers.{i}.self_attention.q_proj.{leaf}",
        "encoder.layers.{i}.self_attn.k_proj.{leaf}": "encoder.layers.{i}.self_attention.k_proj.{leaf}",
        "encoder.layers.{i}.self_attn.v_proj.{leaf}": "encoder.layers.{i}.self_attention.v_proj.{leaf}",
        "encoder.layers.{i}.self_attn.o_proj.{leaf}": "encoder.layers.{i}.self_attention.out_proj.{leaf}",
        "encoder.layers.{i}.self_attn.relative_k_proj.weight": "encoder.layers.{i}.self_attention.position.proj.weight",
        "encoder.layers.{i}.self_attn.bias_u": "encoder.layers.{i}.self_attention.position.u",
        "encoder.layers.{i}.self_attn.bias_v": "encoder.layers.{i}.self_attention.position.v",
        "encoder.layers.{i}.norm_conv.{leaf}": "encoder.layers.{i}.residuals.2.norm.{leaf}",
        "encoder.layers.{i}.conv.pointwise_conv1.{leaf}": "encoder.layers.{i}.convolution.expand.{leaf}",
        "encoder.layers.{i}.conv.depthwise_conv.{leaf}": "encoder.layers.{i}.convolution.depthwise.{leaf}",
        "encoder.layers.{i}.conv.norm.{leaf}": "encoder.layers.{i}.convolution.norm.{leaf}",
        "encoder.layers.{i}.conv.pointwise_conv2.{leaf}": "encoder.layers.{i}.convolution.contract.{leaf}",
        "encoder.layers.{i}.norm_feed_forward2.{leaf}": "encoder.layers.{i}.residuals.3.norm.{leaf}",
        "encoder.layers.{i}.feed_forward2.linear1.{leaf}": "encoder.layers.{i}.feed_forwards.1.expand.{leaf}",
        "encoder.layers.{i}.feed_forward2.linear2.{leaf}": "encoder.layers.{i}.feed_forwards.1.contract.{leaf}",
        "encoder.layers.{i}.norm_out.{leaf}": "encoder.layers.{i}.norm.{leaf}",
        "ctc_head.{leaf}": "ctc_head.{leaf}",
    },
    prefix="encoder.",
    head=(r"ctc_head\.",),
)

FORMAT = Format("parakeet_ctc", ParakeetCTCConfig, {"ParakeetForCTC": ParakeetForCTC}, KEYS)
