"""T5ForConditionalGeneration's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.t5.config import T5Config
from headwise.models.t5.model import T5ForConditionalGeneration

BIAS = "relative_attention_bias.weight"  # of the first layer, for its whole stack

KEYS = Keys(
    rows={
        "shared.weight": "embedding.weight",
        "lm_head.weight": "lm_head.weight",
        "encoder.block.{i}.layer.0.SelfAttention.q.weight": "encoder.layers.{i}.self_attention.q_proj.weight",
        "encoder.block.{i}.layer.0.SelfAttention.k.weight": "encoder.layers.{i}.self_attention.k_proj.weight",
        "encoder.block.{i}.layer.0.SelfAttention.v.weight": "encoder.layers.{i}.self_attention.v_proj.weight",
        "encoder.block.{i}.layer.0.SelfAttention.o.weight": "encoder.layers.{i}.self_attention.out_proj.weight",
        f"encoder.block.{{i}}.layer.0.SelfAttention.{BIAS}": "encoder.layers.{i}.self_attention.position.weight",
        "encoder.block.{i}.layer.0.layer_norm.weight": "encoder.layers.{i}.residuals.0.norm.weight",
        "encoder.block.{i}.layer.1.DenseReluDense.wi.weight": "encoder.layers.{i}.feed_forward.expand.weight",
        "encoder.block.{i}.layer.1.DenseReluDense.wi_0.weight": "encoder.layers.{i}.feed_forward.gate.weight",
        "encoder.block.{i}.layer.1.DenseReluDense.wi_1.weight": "encoder.layers.{i}.feed_forward.linear.weight",
        "encoder.block.{i}.layer.1.DenseReluDense.wo.weight": "encoder.layers.{i}.feed_forward.contract.weight",
        "encoder.block.{i}.layer.1.layer_norm.weight": "encoder.layers.{i}.residuals.1.norm.weight",
        "encoder.final_layer_norm.weight": "encoder.norm.0.weight",
        "decoder.block.{i}.layer.0.SelfAttention.q.weight": "decoder.layers.{i}.self_attention.q_proj.weight",
        "decoder.block.{i}.layer.0.SelfAttention.k.weight": "decoder.layers.{i}.self_attention.k_proj.weight",
        "decoder.block.{i}.layer.0.SelfAttention.v.weight": "decoder.layers.{i}.self_attention.v_proj.weight",
        "decoder.block.{i}.layer.0.SelfAttention.o.weight": "decoder.layers.{i}.self_attention.out_proj.weight",
        f"decoder.block.{{i}}.layer.0.SelfAttention.{BIAS}": "decoder.layers.{i}.self_attention.position.weight",
        "decoder.block.{i}.layer.0.layer_norm.weight": "decoder.layers.{i}.residuals.0.norm.weight",
        "decoder.block.{i}.layer.1.EncDecAttention.q.weight": "decoder.layers.{i}.cross_attention.q_proj.weight",
        "decoder.block.{i}.layer.1.EncDecAttention.k.weight": "decoder.layers.{i}.cross_attention.k_proj.weight",
        "decoder.block.{i}.layer.1.EncDecAttention.v.weight": "decoder.layers.{i}.cross_attention.v_proj.weight",
        "decoder.block.{i}.layer.1.EncDecAttention.o.weight": "decoder.layers.{i}.cross_attention.out_proj.weight",
        "decoder.block.{i}.layer.1.layer_norm.weight": "decoder.layers.{i}.residuals.1.norm.weight",
        "decoder.block.{i}.layer.2.DenseReluDense.wi.weight": "decoder.layers.{i}.feed_forward.expand.weight",
        "decoder.block.{i}.layer.2.DenseReluDense.wi_0.weight": "decoder.layers.{i}.feed_forward.gate.weight",
        "decoder.block.{i}.layer.2.DenseReluDense.wi_1.weight": "decoder.layers.{i}.feed_forward.linear.weight",
        "decoder.block.{i}.layer.2.DenseReluDense.wo.weight": "decoder.layers.{i}.feed_forward.contract.weight",
        "decoder.block.{i}.layer.2.layer_norm.weight": "decoder.layers.{i}.residuals.2.norm.weight",
        "decoder.final_layer_norm.weight": "decoder.norm.0.weight",
    },
    tied={
        "lm_head.weight": ("shared.weight",),
        "encoder.embed_tokens.weight": ("shared.weight",),
        "decoder.embed_tokens.weight": ("shared.weight",),
    },
    # an early file of cross-attention, zero and never used
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
)

FORMAT = Format(
    "t5",
    T5Config,
    {"T5ForConditionalGeneration": T5ForConditionalGeneration, "T5WithLMHeadModel": T5ForConditionalGeneration},
    KEYS,
)
