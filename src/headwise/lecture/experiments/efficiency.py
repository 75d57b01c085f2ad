"""Is multi-head attention more efficient than single attention? Counted from the formula, and timed.

Parameters and multiply-adds are the same for every number of heads; scores and softmax have heads x length^2 elements. Times
are ratios of runs taken in turn, in processor time of one thread, so that what else the machine does cancels.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from headwise.attention.functional import attend
from headwise.attention.module import MultiHeadAttention
from headwise.lecture.costs import total
from headwise.lecture.experiments.experiment import Experiment, Workspace
from headwise.lecture.experiments.results import Numbers, key

Name = TypeVar("Name")


@dataclass(frozen=True)
class Size:
    """lengths: of whole modules on the fused path. written_out: lengths of the formula, which holds heads x length^2 numbers.
    looped: lengths of one batched call against a loop over heads. repeats: of every round of runs in turn."""

    heads: tuple[int, ...] = (1, 4, 8, 16, 32)
    embed_dim: int = 256
    lengths: tuple[int, ...] = (64, 256, 1024, 4096)
    written_out: tuple[int, ...] = (64, 256, 1024)
    looped: tuple[int, ...] = (64, 256, 1024)
    repeats: int = 7


@torch.no_grad()
def run(seed: int, size: Size, workspace: Workspace) -> Numbers:
    """parameters, multiply_adds, exponentials: from the formula. time: of the module / that with one head. formula, fused: of
    attention alone / that with one head, by each path; slower: of the formula / the fused path. batched: of one call / a loop
    over heads. formula_bytes, fused_bytes: the most memory that one call takes beyond its inputs."""
    torch.manual_seed(seed)
    found = Numbers()
    for length in size.lengths:
        found |= _counted(length, size) | _modules(length, size)
    for length in size.written_out:
        found |= _paths(length, size)
    for length in size.looped:
        found |= _loops(length, size)
    return found


def _counted(length: int, size: Size) -> Numbers:
    modules = {heads: MultiHeadAttention(size.embed_dim, heads, device="meta") for heads in size.heads}
    costs = {heads: total(module, length) for heads, module in modules.items()}
    return {
        key(name, heads=heads, length=length): getattr(cost, name)
        for heads, cost in costs.items()
        for name in ("parameters", "multiply_adds", "exponentials")
    }


def _modules(length: int, size: Size) -> Numbers:
    x = torch.randn(1, length, size.embed_dim)
    modules = {heads: MultiHeadAttention(size.embed_dim, heads).eval() for heads in size.heads}
    ratios = in_turn({heads: partial(module, x) for heads, module in modules.items()}, size.repeats)
    return {key("time", heads=heads, length=length): ratio for heads, ratio in ratios.items()}


def _paths(length: int, size: Size) -> Numbers:
    found, runs = Numbers(), dict[tuple[str, int], Callable[[], Tensor]]()
    for heads in size.heads:
        q, k, v = _heads(heads, length, size)
        for path, backend in (("fused", "sdpa"), ("formula", "formula")):
            runs[path, heads] = partial(attend, q, k, v, backend=backend)
            found[key(f"{path}_bytes", heads=heads, length=length)] = peak_bytes(runs[path, heads])
    ratios = in_turn(runs, size.repeats)
    one = size.heads[0]
    for heads in size.heads:
        for path in ("fused", "formula"):
            found[key(path, heads=heads, length=length)] = ratios[path, heads] / ratios[path, one]
        found[key("slower", heads=heads, length=length)] = ratios["formula", heads] / ratios["fused", heads]
    return found


def _loops(length: int, size: Size) -> Numbers:
    found = Numbers()
    for heads in size.heads[1:]:
        q, k, v = _heads(heads, length, size)
        ratios = in_turn({"loop": partial(loop, q, k, v), "call": partial(attend, q, k, v)}, size.repeats)
        found[key("batched", heads=heads, length=length)] = ratios["call"]
    return found


def loop(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same as ``attend``, a head at a time."""
    each = zip(*(x.split(1, dim=-3) for x in (query, key, value)), strict=True)
    return torch.cat([attend(q, k, v) for q, k, v in each], dim=-3)


def _heads(heads: int, length: int, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, 1, heads, length, size.embed_dim // heads)
    return q, k, v


def in_turn(runs: Mapping[Name, Callable[[], object]], repeats: int) -> dict[Name, float]:
    """Time of each, by that of the first: medians of the ratios within a round. The first round only warms up."""
    rounds = [{name: _seconds(one) for name, one in runs.items()} for _ in range(repeats + 1)][1:]
    first = next(iter(runs))
    return {name: statistics.median(times[name] / times[first] for times in rounds) for name in runs}


def _seconds(one: Callable[[], object]) -> float:
    """Processor seconds of a call: as many calls as take a hundredth of a second, so that the clock's steps do not matter."""
    calls, start = 0, time.process_time()
    while calls == 0 or time.process_time() - start < 0.01:
        one()
        calls += 1
    return (time.process_time() - start) / calls


def peak_bytes(one: Callable[[], object]) -> int:
    """The most memory that torch holds at a time during a call, beyond what it held before, by its own profiler."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it prints two lines a call otherwise
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        one()
    profiler: Any = profile.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held, most = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


EXPERIMENT = Experiment(
    name="efficiency",
    samples="each ratio the median of 7 rounds, for every seed anew",
    run=run,
    full=Size(),
    quick=Size(lengths=(64, 256, 1024), heads=(1, 4, 8, 16)),
)
