"""What training hides from a model of speech, so that it learns to tell from the rest (SpecAugment, Park et al. 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional


def spans(
    lengths: Int[Tensor, " rows"], longest: int, probability: float, length: int, least: int = 0
) -> Bool[Tensor, "rows {longest}"]:
    """Which places are hidden: in every row, spans of ``length`` places that lie within the first ``lengths`` of it.

    So many that they would hide the part ``probability`` of a row if none overlapped (rounded up or down at random), at least
    ``least``, as far as they fit; their starts are drawn without replacement, every set of them alike.
    """
    starts = (lengths - length + 1).clamp(min=0)
    wanted = (probability * lengths / length + torch.rand((), device=lengths.device)).floor().clamp(min=least)
    wanted = wanted.clamp(max=longest // length).minimum(starts)
    places = torch.arange(longest, device=lengths.device)
    drawn = torch.rand(len(lengths), longest, device=lengths.device).masked_fill(places >= starts[:, None], -1.0)
    rank = drawn.argsort(dim=1, descending=True).argsort(dim=1)
    begun = functional.pad((rank < wanted[:, None]).cumsum(dim=1), (length, 0))
    return begun[:, length:] > begun[:, :-length]  # one has begun here, or less than a span ago
