"""All statistics of one long layer: time, peak memory, and how far they are from the formula in float64 on sampled rows.

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

HEADS, HEAD_DIM, SAMPLED = 12, 64, 8


@torch.no_grad()
def main(length: int) -> None:
    torch.manual_seed(0)
    attention = hw.MultiHeadAttention(HEADS * HEAD_DIM, HEADS, position=hw.positions.Rotary())
    attention.k_proj.weight.mul_(4)  # sharper than fresh weights are
    x, tokens = torch.randn(1, length, HEADS * HEAD_DIM), torch.randint(length // 4, (1, length))
    groups = {"image": torch.arange(length)[None] < length // 3}
    with hw.observe(attention) as record:
        attention(x)
    call, before = record[""][0], resident()
    start = time.perf_counter()
    found = hw.statistics(record, tokens=tokens, groups=groups | {"text": ~groups["image"]})[""]
    print(found)
    seconds, rows = time.perf_counter() - start, torch.randint(length, (SAMPLED,))
    print(f"{length:,} tokens, {HEADS} heads of {HEAD_DIM}: {seconds:.0f} s; the matrix would take {HEADS * length**2 * 4 / 2**30:.1f} GiB")
    print(f"peak memory {resident():.2f} GiB, of which before the statistics {before:.2f} GiB")
    difference = max(sampled(call, found, tokens, groups["image"], row) for row in rows.tolist())
    print(f"largest difference from float64 on {SAMPLED} rows of all heads: {difference:.1e}")
    start = time.perf_counter()
    sums = hw.rollout({"0": [call], "1": [call]}, rows).sum(-1)
    print(f"rollout of {SAMPLED} rows through 2 layers: {time.perf_counter() - start:.0f} s; rows sum to 1 within {(sums - 1).abs().max():.1e}")
    print(f"peak memory {resident():.2f} GiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 32768)
