"""DiTTransformer2DModel's published names. Every block has an embedder of step and class of its own."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.dit.config import DiTConfig
from headwise.models.dit.model import DiTTransformer2DModel

BLOCK, THEIRS = "blocks.{i}", "transformer_blocks.{i}"

KEYS = Keys(
    rows={
        "pos_embed.proj.{leaf}": "patches.projection.{leaf}",
        f"{THEIRS}.norm1.emb.timestep_embedder.linear_1.{{leaf}}": f"{BLOCK}.condition.step.0.{{leaf}}",
        f"{THEIRS}.norm1.emb.timestep_embedder.linear_2.{{leaf}}": f"{BLOCK}.condition.step.2.{{leaf}}",
        f"{THEIRS}.norm1.emb.class_embedder.embedding_table.{{leaf}}": f"{BLOCK}.condition.label.{{leaf}}",
        f"{THEIRS}.norm1.linear.{{leaf}}": f"{BLOCK}.modulation.{{leaf}}",
        f"{THEIRS}.attn1.to_q.{{leaf}}": f"{BLOCK}.self_attention.q_proj.{{leaf}}",
        f"{THEIRS}.attn1.to_k.{{leaf}}": f"{BLOCK}.self_attention.k_proj.{{leaf}}",
        f"{THEIRS}.attn1.to_v.{{leaf}}": f"{BLOCK}.self_attention.v_proj.{{leaf}}",
        f"{THEIRS}.attn1.to_out.0.{{leaf}}": f"{BLOCK}.self_attention.out_proj.{{leaf}}",
        f"{THEIRS}.norm3.{{leaf}}": f"{BLOCK}.norms.1.{{leaf}}",
        f"{THEIRS}.ff.net.0.proj.{{leaf}}": f"{BLOCK}.feed_forward.expand.{{leaf}}",
        f"{THEIRS}.ff.net.2.{{leaf}}": f"{BLOCK}.feed_forward.contract.{{leaf}}",
        "proj_out_1.{leaf}": "modulation.{leaf}",
        "proj_out_2.{leaf}": "proj_out.{leaf}",
    },
    ignored=(r"pos_embed\.pos_embed",),  # the table of positions
)

# Older files call the class by what then held all of the library's image transformers.
MODELS = {"DiTTransformer2DModel": DiTTransformer2DModel, "Transformer2DModel": DiTTransformer2DModel}
FORMAT = Format(None, DiTConfig, MODELS, KEYS)
