"""The numbers that make a GPT-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwise.models.checkpoint.config import Config


@dataclass(frozen=True, kw_only=True)
class GPT2Config(Config):
    """config.json of a GPT2LMHeadModel; defaults are those of the smallest published model.

    n_inner: width of the feed-forward layers, 4 n_embd if not given. scale_attn_weights: False leaves scores unscaled;
    scale_attn_by_inverse_layer_idx: those of layer i (from 0) are divided by i + 1 too.
    """

    supported: ClassVar = {**Config.supported, "add_cross_attention": False}
    aliases: ClassVar = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    eos_token_id: int | list[int] | None = 50256
    pad_token_id: int | None = None

    @property
    def num_outputs(self) -> int:
        """How many tokens of the vocabulary are ever predicted."""
        return self.vocab_size
