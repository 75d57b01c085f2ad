"""The numbers that make a Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headwise.attention.positions import Linear, Llama3, Rotary, Scaling, YaRN
from headwise.models.config import Config

SCALINGS: dict[str, type[Scaling]] = {"linear": Linear, "llama3": Llama3, "yarn": YaRN}


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(Config):
    """config.json of a LlamaForCausalLM; defaults are Llama 2's with 7 billion parameters.

    num_key_value_heads: num_attention_heads if not given. head_dim: hidden_size / num_attention_heads if not given.
    rope_parameters: rope_theta, rope_type ("default", "linear", "llama3", "yarn") and that type's numbers; older files say
    rope_theta and rope_scaling, and are read so. max_position_embeddings is what was trained on, no bound.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_parameters: Mapping[str, Any] = field(default_factory=lambda: {"rope_theta": 10000.0, "rope_type": "default"})
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = None

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> LlamaConfig:
        entries = dict(entries)
        theta, scaling = entries.pop("rope_theta", 10000.0), entries.pop("rope_scaling", None) or {}
        if entries.get("rope_parameters") is None:
            kind = scaling.get("rope_type", scaling.get("type", "default"))
            entries["rope_parameters"] = {"rope_theta": theta, **scaling, "rope_type": kind}
        return super().from_entries(entries)

    def rotary(self) -> Rotary:
        """The rule of positions that rope_parameters describe. Raises ValueError for a type that is not known."""
        given = dict(self.rope_parameters)
        theta, kind, part = given.pop("rope_theta", 10000.0), given.pop("rope_type", "default"), given.pop("type", None)
        part = given.pop("partial_rotary_factor", 1.0)
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        dim = None if part == 1.0 else int(head_dim * part)
        if kind == "default":
            return Rotary(theta, dim)
        if kind not in SCALINGS:
            raise ValueError(f"rope_type: expected one of default, {', '.join(SCALINGS)}; got {kind!r}")
        return Rotary(theta, dim, scaling=SCALINGS[kind](**given))
