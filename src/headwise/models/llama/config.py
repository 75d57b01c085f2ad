"""The numbers that make a Llama."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import pi
from typing import Any

from headwise.attention.positions import Linear, Llama3, Rotary, Scaling, YaRN
from headwise.models.checkpoint.config import Config

TRAINED = "original_max_position_embeddings"
# Each type's rule, the numbers that it needs and those that it may be given.
SCALINGS: dict[str, tuple[Callable[..., Scaling], tuple[str, ...], tuple[str, ...]]] = {
    "linear": (Linear, ("factor",), ()),
    "llama3": (Llama3, ("factor", "low_freq_factor", "high_freq_factor", TRAINED), ()),
    "yarn": (YaRN, ("factor", TRAINED), ("beta_fast", "beta_slow", "attention_factor")),
}


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
        older = {name: entries.pop(name) for name in ("rope_theta", "partial_rotary_factor") if name in entries}
        rope = entries.pop("rope_scaling", None) or entries.get("rope_parameters") or {}
        if not isinstance(rope, Mapping):
            raise ValueError(f"rope_parameters (or rope_scaling): expected an object; got {rope!r}")
        return super().from_entries(entries | {"rope_parameters": {"rope_theta": 10000.0, **older, **rope}})

    def with_heads(self, num_heads: int, num_kv_heads: int) -> LlamaConfig | None:
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        if self.hidden_size % num_heads:  # others would not read that
            return None
        return replace(self, num_attention_heads=num_heads, num_key_value_heads=num_kv_heads, head_dim=head_dim)

    def rotary(self) -> Rotary:
        """The rule of positions that rope_parameters describe. Raises ValueError for a type that is not known."""
        said = {"rope_theta": 10000.0, TRAINED: self.max_position_embeddings, **self.rope_parameters}
        if TRAINED in self.other:  # where it stands there, it counts
            said[TRAINED] = self.other[TRAINED]
        given = {name: value for name, value in said.items() if value is not None}
        for name, value in {"partial_rotary_factor": 1.0, "mscale_all_dim": 0, "truncate": True}.items():
            if given.get(name, value) != value:
                raise ValueError(f"rope_parameters: {name} is {given[name]!r}; only {value!r} is known here")
        if (self.head_dim or self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("rotary positions need heads of an even width")
        base, kind = _number(given, "rope_theta", above=1), given.get("rope_type", given.get("type", "default"))
        return Rotary(base, scaling=None if kind == "default" else self._scaling(kind, given))

    def _scaling(self, kind: Any, given: dict[str, Any]) -> Scaling:
        if kind not in list(SCALINGS):
            raise ValueError(f"rope_type: expected one of default, {', '.join(SCALINGS)}; got {kind!r}")
        make, needed, possible = SCALINGS[kind]
        numbers = {name: _number(given, name) for name in (*needed, *(given.keys() & possible))}
        if kind == "llama3" and numbers["high_freq_factor"] <= numbers["low_freq_factor"]:
            raise ValueError("rope_parameters: high_freq_factor must be above low_freq_factor")
        if kind == "yarn":
            slow, fast, trained = numbers.get("beta_slow", 1), numbers.get("beta_fast", 32), numbers[TRAINED]
            if not (slow <= fast and 2 * pi * slow <= trained < fast * given["rope_theta"]):  # the ramp would stand on its head
                raise ValueError(f"rope_parameters: beta_slow = {slow}, beta_fast = {fast}, {TRAINED} = {trained} make no ramp")
        return make(**numbers)


def _number(given: Mapping[str, Any], name: str, above: int = 0) -> Any:
    value: Any = given.get(name)
    if type(value) not in (int, float) or not above < value <= sys.float_info.max:
        raise ValueError(f"rope_parameters: {name}: expected a number above {above}; got {value!r}")
    return value if name == TRAINED else float(value)
