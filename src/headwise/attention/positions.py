"""Positions that act inside attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021): pairs of channels of query and key turn by an angle that grows with the position.

    Pair m of ``dim`` channels at position p turns by p * base^(-2m / dim), so q_i . k_j depends on i - j alone.

    interleaved=False (Llama, GPT-NeoX) pairs channel m with m + dim/2, the two halves; interleaved=True (the paper, GPT-J,
    Meta's own Llama files) pairs 2m with 2m + 1. Weights trained with one do not fit the other. dim: how many leading channels
    turn (None = all of them). Angles are computed in float32.
    """

    base: float = 10000.0
    dim: int | None = None
    interleaved: bool = False

    def rotate(
        self, x: Float[Tensor, "*batch heads length head_dim"], positions: Int[Tensor, " length"]
    ) -> Float[Tensor, "*batch heads length head_dim"]:
        """x with every vector turned to its position."""
        dim = x.shape[-1] if self.dim is None else self.dim
        if dim % 2 or not 0 < dim <= x.shape[-1]:
            raise ValueError(f"Rotary: dim must be even and at most head_dim = {x.shape[-1]}; got {dim}")
        frequencies = self.base ** (-torch.arange(0, dim, 2, device=x.device, dtype=torch.float32) / dim)
        angle = positions[:, None] * frequencies
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        turning, still = x[..., :dim], x[..., dim:]
        if self.interleaved:
            a, b = turning[..., 0::2], turning[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        else:
            a, b = turning.chunk(2, dim=-1)
            turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
        return torch.cat([turned, still], dim=-1)
