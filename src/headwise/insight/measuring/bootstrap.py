"""Statistics over a data set: means with intervals, from numbers per sequence."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwise.insight.measuring.statistics import HeadStatistics, PerSequence
from headwise.insight.progress import tracked

AT_ONCE = 2**22  # counts of drawn sequences held at a time


@dataclass(frozen=True, eq=False)
class Interval:
    """A number of every head over a data set: its mean over all queries, and the limits between which that lies with
    the confidence asked for, were other sequences drawn from where these came from."""

    mean: Float[Tensor, " heads"]
    low: Float[Tensor, " heads"]
    high: Float[Tensor, " heads"]
    sequences: int


def bootstrap(
    measured: Iterable[Mapping[str, HeadStatistics]], *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Means over a data set with percentile intervals (Efron 1979), by address and by the number's name.

        def measured():
            for batch in batches:
                with hw.observe(model) as record:
                    model(**batch)
                yield hw.statistics(record, tokens=batch["input_ids"])

        hw.bootstrap(measured())["encoder.layers.0.self_attention"]["entropy"].low

    Every resample draws as many sequences as there are, with replacement, and takes the mean over their queries; the interval
    holds the middle 95 % of these means. Equal seeds draw equal sequences, so that addresses, heads and models stay
    comparable. Of every batch only one number per sequence, head and statistic is kept. Ctrl-C ends the gathering, and what
    was gathered until then is returned. Raises ValueError where nothing was measured, or not the same in every batch.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"expected resamples of at least 1 and confidence between 0 and 1; got {resamples} and {confidence}")
    gathered: dict[str, dict[str, list[PerSequence]]] = {}
    try:
        for one in tracked(measured, "measuring"):
            for address, heads in one.items():
                names = gathered.setdefault(address, {name: [] for name in heads.by_sequence})
                if names.keys() != heads.by_sequence.keys():
                    got = ", ".join(heads.by_sequence)
                    raise ValueError(f"{address!r}: expected {', '.join(names)} in every batch; got {got}")
                for name, numbers in heads.by_sequence.items():
                    names[name].append(numbers)
    except KeyboardInterrupt:
        print("interrupted: intervals of what was measured until now", file=sys.stderr)
    if not gathered:
        raise ValueError("nothing was measured: expected the statistics of at least one batch")
    return {
        address: {name: interval(PerSequence.joined(parts), resamples, confidence, seed) for name, parts in names.items()}
        for address, names in gathered.items()
    }


def interval_of_mean(samples: Float[Tensor, "samples heads"]) -> Interval:
    """The mean of numbers that count alike, one of each head a sample, and its interval."""
    return interval(PerSequence(samples, torch.ones_like(samples, dtype=torch.long)))


def interval(numbers: PerSequence, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """The mean of a number, and the percentile interval of the means of resampled sequences."""
    sequences = len(numbers.sums)
    sums, queries = numbers.sums.double(), numbers.queries.double()
    generator, means, size = torch.Generator().manual_seed(seed), [], max(1, AT_ONCE // max(1, sequences))
    for drawn in torch.full((resamples,), sequences).split(size):
        chosen = torch.randint(max(1, sequences), (len(drawn), sequences), generator=generator).to(sums.device)
        times = sums.new_zeros(len(drawn), sequences).scatter_add_(1, chosen, torch.ones_like(chosen, dtype=sums.dtype))
        means.append((times @ sums) / (times @ queries))  # nan where no query was drawn
    outside = (1 - confidence) / 2
    limits = torch.tensor([outside, 1 - outside], dtype=sums.dtype, device=sums.device)
    low, high = torch.cat(means).nanquantile(limits, dim=0).to(numbers.sums.dtype)
    return Interval(numbers.overall, low, high, sequences)
