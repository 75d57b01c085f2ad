"""How cost grows with length, and the ratios that the project promises. Each line says what is promised and what was measured.

python benchmarks/growth.py        all of it, about five minutes on two cores
python benchmarks/growth.py peak "window, padding" 16384    one measurement of memory, in this process: bytes
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import headwise as hw

HEADS, HEAD_DIM, SHORT, LONG = 8, 64, 4096, 16384


def window(length: int, batch: int) -> hw.masks.Mask:
    return hw.masks.window(256, 0)


def padding(length: int, batch: int) -> hw.masks.Mask:
    return window(length, batch) & hw.masks.padding(torch.linspace(0.7, 1.0, batch).mul(length).long())


def documents(length: int, batch: int) -> hw.masks.Mask:
    ends = torch.arange(length) // 700  # packed documents of 700 tokens, elsewhere in every sequence
    return window(length, batch) & hw.masks.documents(torch.stack([ends.roll(53 * b) for b in range(batch)]))


GROWING: dict[str, tuple[Callable[[int, int], hw.masks.Mask], int]] = {
    "window": (window, 1),
    "window, batch 3": (window, 3),
    "window, padding": (padding, 1),
    "window, padding, batch 3": (padding, 3),
    "window, documents": (documents, 1),
    "window, documents, batch 3": (documents, 3),
}


def tensors(length: int, batch: int = 1, value_dim: int = HEAD_DIM, learn: bool = True) -> list[Tensor]:
    return [torch.randn(batch, HEADS, length, width).requires_grad_(learn) for width in (HEAD_DIM, HEAD_DIM, value_dim)]


def forward(inputs: list[Tensor], mask: hw.masks.Mask | None) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad():
            hw.attend(*inputs, mask=mask)

    return run


def both_ways(inputs: list[Tensor], mask: hw.masks.Mask | None) -> Callable[[], object]:
    return lambda: torch.autograd.grad(hw.attend(*inputs, mask=mask).sum(), inputs)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(what: str, promised: float, one: Callable[[], object], other: Callable[[], object], pairs: int = 7) -> None:
    """The ratio of two runs, taken in turn in one process."""
    for run in (one, other):
        run()
    ratios = [seconds(one) / seconds(other) for _ in range(pairs)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{what:<64} < {promised:<5} measured {middle:.2f} (quartiles {low:.2f} to {high:.2f}, {pairs} pairs)", flush=True)


def peak(what: str, length: int) -> int:
    """Bytes that a run takes at its highest, inputs included, beyond what the process had before."""
    before = highest()
    if what == "statistics":
        observed_statistics(length)[1]()
    else:
        rule, batch = GROWING[what]
        both_ways(tensors(length, batch), rule(length, batch))()
    return highest() - before


def highest() -> int:
    """The process's memory at its highest, from Linux; getrusage would count the process that started this one, too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def peak_growth(what: str, short: int, long: int, promised: float) -> None:
    sizes = [int(subprocess.check_output([sys.executable, __file__, "peak", what, str(n)])) for n in (short, long)]
    grew = f"{sizes[0] / 2**20:.0f} to {sizes[1] / 2**20:.0f} MiB"
    print(f"{what + f': peak memory, {short:,} to {long:,}':<64} < {promised:<5} measured {sizes[1] / sizes[0]:.2f} ({grew})")


def observed_statistics(length: int, mask: hw.masks.Mask | None = None) -> tuple[Callable[[], object], Callable[[], object]]:
    """The forward pass of a module, and the statistics of what was observed in it."""
    attention, x = (
        hw.MultiHeadAttention(HEADS * HEAD_DIM, HEADS).requires_grad_(False),
        torch.randn(1, length, HEADS * HEAD_DIM),
    )
    with hw.observe(attention) as record:
        attention(x, mask=mask)
    return lambda: attention(x, mask=mask), lambda: hw.statistics(record)


def main() -> None:
    torch.manual_seed(0)
    causal, at = hw.masks.causal(), 8192
    for what, (rule, batch) in GROWING.items():
        short, long = (both_ways(tensors(n, batch), rule(n, batch)) for n in (SHORT, LONG))
        interleaved(f"{what}: time both ways, {SHORT:,} to {LONG:,}", 5, long, short)
        peak_growth(what, SHORT, LONG, 5)
    inputs = tensors(at)
    interleaved("window 256 / causal, forward", 0.2, forward(inputs, window(at, 1)), forward(inputs, causal))
    interleaved("window 256 / causal, both ways", 0.22, both_ways(inputs, window(at, 1)), both_ways(inputs, causal))
    wide = tensors(at, value_dim=2 * HEAD_DIM)
    interleaved("value_dim 128 / 64 at head_dim 64, forward", 2.2, forward(wide, causal), forward(inputs, causal))
    interleaved("value_dim 128 / 64 at head_dim 64, both ways", 2.2, both_ways(wide, causal), both_ways(inputs, causal))
    for name, mask in {"no mask": None, "causal": causal, "window": window(SHORT, 1)}.items():
        one_pass, numbers = observed_statistics(SHORT, mask)
        interleaved(f"statistics / forward pass of the module, {SHORT:,}, {name}", 3, numbers, one_pass)
    peak_growth("statistics", SHORT, LONG, 5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        print(peak(sys.argv[2], int(sys.argv[3])))
    else:
        main()
