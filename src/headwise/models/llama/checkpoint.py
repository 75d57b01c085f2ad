"""LlamaForCausalLM's published names."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.llama.config import LlamaConfig
from headwise.models.llama.model import LlamaForCausalLM

KEYS = Keys(
    rows={
        "lm_head.weight": "lm_head.weight",
        "model.embed_tokens.weight": "embedding.weight",
        "model.layers.{i}.input_layernorm.weight": "decoder.layers.{i}.residuals.0.norm.weight",
        "model.layers.{i}.self_attn.q_proj.{leaf}": "decoder.layers.{i}.self_attention.q_proj.{leaf}",
        "model.layers.{i}.self_attn.k_proj.{leaf}": "decoder.layers.{i}.self_attention.k_proj.{leaf}",
        "model.layers.{i}.self_attn.v_proj.{leaf}": "decoder.layers.{i}.self_attention.v_proj.{leaf}",
        "model.layers.{i}.self_attn.o_proj.{leaf}": "decoder.layers.{i}.self_attention.out_proj.{leaf}",
        "model.layers.{i}.post_attention_layernorm.weight": "decoder.layers.{i}.residuals.1.norm.weight",
        "model.layers.{i}.mlp.gate_proj.{leaf}": "decoder.layers.{i}.feed_forward.gate.{leaf}",
        "model.layers.{i}.mlp.up_proj.{leaf}": "decoder.layers.{i}.feed_forward.linear.{leaf}",
        "model.layers.{i}.mlp.down_proj.{leaf}": "decoder.layers.{i}.feed_forward.contract.{leaf}",
        "model.norm.weight": "decoder.norm.weight",
    },
    tied={"lm_head.weight": ("model.embed_tokens.weight",)},
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # computed; in old files
    prefix="model.",
)

FORMAT = Format("llama", LlamaConfig, {"LlamaForCausalLM": LlamaForCausalLM}, KEYS)
