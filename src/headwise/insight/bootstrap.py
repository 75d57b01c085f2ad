"""How far a mean over examples can be trusted."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def interval(
    samples: Float[Tensor, "samples numbers"], confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Float[Tensor, " numbers"], Float[Tensor, " numbers"]]:
    """Lower and upper end of the means over samples, by the percentile bootstrap (Efron and Tibshirani 1993, section 13.3).

    All numbers of a sample are drawn together, with a generator of that seed. nan where there is but one sample.
    """
    count = len(samples)
    if count < 2:
        nothing = torch.full_like(samples.mean(0), torch.nan)
        return nothing, nothing
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    each = torch.full(drawn.shape, 1 / count, dtype=samples.dtype)
    shares = torch.zeros_like(each).scatter_add_(1, drawn, each)  # of every sample in every draw
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=samples.dtype)
    low, high = (shares @ samples.cpu()).quantile(ends, dim=0)
    return low, high
