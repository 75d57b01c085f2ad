"""Rollout through two long layers, and all statistics of one: time, peak memory, and how far these are from the formula in
float64 on sampled rows.

python benchmarks/long.py [length]     12 heads of 64, 32,768 tokens if not said otherwise; minutes
"""

from __future__ import annotations

import resource
import sys
import time

import torch
from torch import Tensor

import headwise as hw
from headwise.attention.record import Recorded
from headwise.insight.measuring.statistics import HeadStatistics

HEADS, HEAD_DIM, SAMPLED = 12, 64, 8


def sampled(call: Recorded, found: HeadStatistics, tokens: Tensor, image: Tensor, row: int) -> float:
    """The largest relative difference of one query's numbers, in all heads, from their definitions in float64."""
    query, key = call.query[0, :, row].double(), call.key[0].double()
    log_p = (torch.einsum("hd,hnd->hn", query, key) / HEAD_DIM**0.5).log_softmax(-1)
    p, j, token = log_p.exp(), torch.arange(key.shape[1]), tokens[0]
    apart, same = (j - row).abs().double(), token == token[row]
    mean = (p * apart).sum(-1)
    expected = {
        "entropy": -(p * log_p).sum(-1),
        "first": p[:, 0],
        "own": p[:, row],
        "distance": mean,
        "spread": (p * (apart - mean[:, None]).square()).sum(-1).sqrt(),
        "duplicate": (p * (same & (j < row))).sum(-1),
        "induction": (p * (same.roll(1) & (j > 0) & (j <= row))).sum(-1),
        "to image": p[:, image[0]].sum(-1),
        "top_mass": p.topk(3).values.sum(-1),
    }
    assert found.by_query is not None
    numbers = {name: found.by_query[name][0, :, row] for name in expected}
    return max(float(((numbers[name] - want) / want.clamp(min=1e-9)).abs().max()) for name, want in expected.items())


def resident() -> float:
    """The process's memory at its highest, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@torch.no_grad()
def observed(length: int) -> Recorded:
    """What fresh, somewhat sharpened heads compute of random vectors."""
    torch.manual_seed(0)
    attention = hw.MultiHeadAttention(HEADS * HEAD_DIM, HEADS, position=hw.positions.Rotary())
    attention.k_proj.weight.mul_(4)  # sharper than fresh weights are
    with hw.observe(attention) as record:
        attention(torch.randn(1, length, HEADS * HEAD_DIM))
    return record[""][0]


def of_statistics(call: Recorded) -> None:
    length, before = call.key.shape[-2], resident()
    tokens, image = torch.randint(length // 4, (1, length)), torch.arange(length)[None] < length // 3
    start = time.perf_counter()
    found = hw.statistics({"": [call]}, tokens=tokens, groups={"image": image, "text": ~image})[""]
    print(found)
    seconds, matrix = time.perf_counter() - start, HEADS * length**2 * 4 / 2**30
    print(f"{length:,} tokens, {HEADS} heads of {HEAD_DIM}: {seconds:.0f} s; the matrix would take {matrix:.1f} GiB")
    print(f"peak memory {resident():.2f} GiB, of which before the statistics {before:.2f} GiB")
    difference = max(sampled(call, found, tokens, image, row) for row in torch.randint(length, (SAMPLED,)).tolist())
    print(f"largest relative difference from float64, of any number of {SAMPLED} rows of all heads: {difference:.1e}")


def of_rollout(call: Recorded) -> None:
    length, before = call.key.shape[-2], resident()
    start = time.perf_counter()
    sums = hw.rollout({"0": [call], "1": [call]}, torch.randint(length, (SAMPLED,))).sum(-1)
    seconds, off = time.perf_counter() - start, (sums - 1).abs().max()
    print(f"rollout of {SAMPLED} rows through 2 layers: {seconds:.0f} s; rows sum to 1 within {off:.1e}")
    print(f"peak memory {resident():.2f} GiB, of which before the rollout {before:.2f} GiB")


if __name__ == "__main__":
    call = observed(int(sys.argv[1]) if sys.argv[1:] else 32768)
    of_rollout(call)
    of_statistics(call)
