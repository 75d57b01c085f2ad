"""Positions that are added to embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sinusoids(positions: Int[Tensor, " length"], dim: int) -> Float[Tensor, "length dim"]:
    """The table of Vaswani et al. 2017 (section 3.5), interleaved, in float32.

    channel 2m: sin(p * 10000^(-2m / dim)), channel 2m + 1: cos of the same angle.
    """
    frequencies = 10000.0 ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    angle = positions[:, None] * frequencies
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[:, :dim]
