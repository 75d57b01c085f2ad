"""Which part of its input each head reads, or of its output writes, and how far apart two heads' parts are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headwise.attention.module import MultiHeadAttention
from headwise.lecture.costs import projection


def subspaces(module: MultiHeadAttention, name: str) -> Float[Tensor, "heads embed_dim width"]:
    """Orthonormal bases of what each head reads through q_proj, k_proj or v_proj, or writes through out_proj."""
    weight = projection(module, name).weight.detach()
    heads = module.num_heads if name in ("q_proj", "out_proj") else module.num_kv_heads
    weight = weight.mT if name == "out_proj" else weight
    return bases(weight.unflatten(0, (heads, -1)))


def bases(rows: Float[Tensor, "heads width embed_dim"]) -> Float[Tensor, "heads embed_dim width"]:
    """Orthonormal bases, float64, of the spaces that the rows of each matrix span."""
    return torch.linalg.qr(rows.double().mT).Q


def mean_angle(bases: Float[Tensor, "heads embed_dim width"]) -> float:
    """Mean over all pairs of heads of the mean principal angle between their subspaces, in degrees: 0 = the same subspace, 90 =
    nothing in common, nan of a single head. arccos of the singular values of A^T B (Björck and Golub 1973)."""
    one, other = _pairs(len(bases))
    cosines = torch.linalg.svdvals(bases[one].mT @ bases[other]).clamp(max=1.0)
    return float(cosines.arccos().rad2deg().mean())


def mean_of_pairs(similarity: Float[Tensor, "heads heads"]) -> float:
    """Mean over all pairs of different heads; nan of a single head."""
    return float(similarity[_pairs(len(similarity))].double().mean())


def _pairs(heads: int) -> tuple[Tensor, Tensor]:
    one, other = torch.triu_indices(heads, heads, offset=1)
    return one, other
