"""The numbers that make a T5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from headwise.models.checkpoint.config import Config


@dataclass(frozen=True, kw_only=True)
class T5Config(Config):
    """config.json of a T5ForConditionalGeneration; defaults are t5-small's.

    scale_decoder_outputs: the last hidden states times d_model^-0.5, before logits with the shared embedding; where a file
    does not say, so it is if tie_word_embeddings. feed_forward_proj: an activation, or "gated-" and an activation.
    """

    supported: ClassVar = {**Config.supported, "is_decoder": False}
    aliases: ClassVar = {
        "head_dim": "d_kv",
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    pad_token_id: int = 0
    eos_token_id: int | list[int] = 1
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        unsaid: dict[str, Any] = {
            "num_decoder_layers": self.num_layers,
            "scale_decoder_outputs": self.tie_word_embeddings,
            "decoder_start_token_id": self.pad_token_id,
        }
        for name, value in unsaid.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> T5Config:
        config, feed = super().from_entries(entries), entries.get("feed_forward_proj", cls.feed_forward_proj)
        # Newer files say it twice, and the reference library believes what follows from feed_forward_proj less.
        act = "gelu_new" if feed == "gated-gelu" else feed.removeprefix("gated-")
        for name, value in {"is_gated_act": feed.startswith("gated-"), "dense_act_fn": act}.items():
            if entries.get(name, value) != value:
                raise ValueError(f"{name} is {entries[name]!r}, though feed_forward_proj is {feed!r}")
        return config
