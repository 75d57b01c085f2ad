"""GPT2LMHeadModel's published names. Its projections are stored [in, out], query, key and value as one."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys, Stored
from headwise.models.gpt2.config import GPT2Config
from headwise.models.gpt2.model import GPT2LMHeadModel

ATTENTION = "decoder.layers.{i}.self_attention"
FEED_FORWARD = "decoder.layers.{i}.feed_forward"

KEYS = Keys(
    rows={
        "lm_head.weight": "lm_head.weight",
        "transformer.wte.weight": "embedding.weight",
        "transformer.wpe.weight": "position_embedding.weight",
        "transformer.h.{i}.ln_1.{leaf}": "decoder.layers.{i}.residuals.0.norm.{leaf}",
        "transformer.h.{i}.attn.c_attn.{leaf}": Stored(
            (f"{ATTENTION}.q_proj.{{leaf}}", f"{ATTENTION}.k_proj.{{leaf}}", f"{ATTENTION}.v_proj.{{leaf}}"), transposed=True
        ),
        "transformer.h.{i}.attn.c_proj.{leaf}": Stored((f"{ATTENTION}.out_proj.{{leaf}}",), transposed=True),
        "transformer.h.{i}.ln_2.{leaf}": "decoder.layers.{i}.residuals.1.norm.{leaf}",
        "transformer.h.{i}.mlp.c_fc.{leaf}": Stored((f"{FEED_FORWARD}.expand.{{leaf}}",), transposed=True),
        "transformer.h.{i}.mlp.c_proj.{leaf}": Stored((f"{FEED_FORWARD}.contract.{{leaf}}",), transposed=True),
        "transformer.ln_f.{leaf}": "decoder.norm.{leaf}",
    },
    tied={"lm_head.weight": ("transformer.wte.weight",)},
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),  # the causal mask, in old files
    prefix="transformer.",
)

FORMAT = Format("gpt2", GPT2Config, {"GPT2LMHeadModel": GPT2LMHeadModel}, KEYS)
