"""What makes a training run."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from headwise.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Recipe:
    """Two runs of one recipe, on one machine and the same data, are equal.

    lr(step) = lr_scale * embed_dim^-0.5 * min(step^-0.5, step * warmup_steps^-1.5). tokens: about how many tokens of
    both sides are in a batch. average: how many of the best epochs on valid are averaged at the
    end. vocab_size: at least every character of the data gets a token, also where that makes more.
    """

    seed: int = 0
    vocab_size: int = 6000
    embed_dim: int = 256
    num_heads: int = 8
    num_layers: int = 3
    feedforward_dim: int = 1024
    max_positions: int = 128
    dropout: float = 0.2
    norm: Literal["post", "pre"] = "post"
    tokens: int = 800
    warmup_steps: int = 1000
    lr_scale: float = 0.5
    average: int = 5

    def __post_init__(self) -> None:
        for name in ("embed_dim", "num_heads", "num_layers", "feedforward_dim", "tokens", "warmup_steps", "average"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1; got {getattr(self, name)}")
        if self.vocab_size < 16 or self.max_positions < 2 or not 0 < self.lr_scale < inf:
            raise ValueError("expected vocab_size of at least 16, max_positions of at least 2 and a positive lr_scale")


def sizes(config: TransformerConfig) -> dict[str, Any]:
    """What a recipe says of a model that is there; heads are counted as they were before any were pruned or grouped."""
    same = ("vocab_size", "embed_dim", "num_heads", "feedforward_dim", "max_positions", "norm")
    if config.num_encoder_layers != config.num_decoder_layers:
        layers = f"{config.num_encoder_layers} and {config.num_decoder_layers}"
        raise ValueError(f"a recipe has as many layers in the decoder as in the encoder; the model has {layers}")
    return {name: getattr(config, name) for name in same} | {"num_layers": config.num_encoder_layers}
