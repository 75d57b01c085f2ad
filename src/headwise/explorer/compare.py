"""Two models side by side: size, quality and speed, and which head of the one is which of the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.module import MultiHeadAttention
from headwise.insight.measuring import similarity
from headwise.insight.observing.observe import attention_modules, observe
from headwise.insight.progress import tracked
from headwise.models.seq2seq import EncoderDecoder
from headwise.tasks.examples import Checkpoint, Line, some
from headwise.tasks.purposes import Batch
from headwise.tasks.quality import Number, answers, mean, translation

ROUNDS, AT_ONCE = 20, 32  # of measuring time; lines in the batch that it is measured on


@dataclass(frozen=True)
class Side:
    """One of the models. bytes: of its weights' files. quality: by name, loss in nats an example."""

    model: str
    heads: int
    parameters: int
    bytes: int
    quality: Mapping[str, Number]


@dataclass(frozen=True)
class Match:
    """A head of the first model and its like in the second, None where it has none. parameters: the cosine of their weights
    (W_Q, W_K, W_V, W_O side by side); attention: the weight that both put on the same keys, ``hw.similarity.weights``."""

    address: str
    first: int | None
    second: int | None
    parameters: float | None
    attention: float | None


@dataclass(frozen=True)
class Comparison:
    """differences: second - first, paired by example. seconds: of a forward pass of some examples, the least of both models;
    slower: the median of the ratios of neighbours in time, second to first."""

    first: Side
    second: Side
    differences: Mapping[str, Number]
    seconds: tuple[float, float] | None
    slower: float | None
    matches: Sequence[Match]


def compare(first: Checkpoint, second: Checkpoint, lines: Sequence[Line] = (), examples: Sequence[Line] = ()) -> Comparison:
    """lines: what quality and speed are measured on. examples: what attention is compared on."""
    pair = first, second
    have_labels = bool(lines) and all(one.learns(line) for one in pair for line in lines)
    found = [answers(one, lines) if have_labels else {} for one in pair]
    shared = [name for name in found[0] if name in found[1]]
    differences = {name: mean(torch.tensor(found[1][name]) - torch.tensor(found[0][name])) for name in shared}
    quality = [{name: mean(numbers[name]) for name in shared} for numbers in found]
    for one, numbers in zip(pair, quality, strict=True):
        if have_labels and isinstance(one.model, EncoderDecoder) and one.reads_text:
            numbers["sacreBLEU, greedy"] = translation(one, lines)
    seconds, slower = _pace(first, second, some(lines, AT_ONCE)) if lines else (None, None)
    sides = [_side(one, numbers) for one, numbers in zip(pair, quality, strict=True)]
    return Comparison(sides[0], sides[1], differences, seconds, slower, _matches(first, second, examples))


def _side(checkpoint: Checkpoint, quality: Mapping[str, Number]) -> Side:
    model = checkpoint.model
    heads = sum(module.num_heads for module in attention_modules(model).values())
    return Side(type(model).__name__, heads, checkpoint.parameters, checkpoint.bytes, quality)


@torch.no_grad()
def _pace(first: Checkpoint, second: Checkpoint, lines: Sequence[Line]) -> tuple[tuple[float, float], float]:
    """In turn, so that whatever else the machine does meets both."""
    inputs = [(one.model, one.batch(lines)) for one in (first, second)]

    def seconds(model: nn.Module, batch: Batch) -> float:
        start = time.perf_counter()
        model(**batch)
        return time.perf_counter() - start

    for model, batch in inputs:  # the first run is no measure
        seconds(model, batch)
    times = np.array([[seconds(*one) for one in inputs] for _ in tracked(range(ROUNDS), "measuring time")])
    least = times.min(0).tolist()
    return (least[0], least[1]), median((times[:, 1] / times[:, 0]).tolist())


def _matches(first: Checkpoint, second: Checkpoint, lines: Sequence[Line]) -> list[Match]:
    """Of all modules of the same address, each head with its like: by parameters or, where these do not compare, attention."""
    modules = attention_modules(first.model), attention_modules(second.model)
    shared = [address for address in modules[0] if address in modules[1]]
    attention, matches = _attention_alike(first, second, lines), list[Match]()
    for address in shared:
        parameters = _parameters_alike(modules[0][address], modules[1][address])
        alike = {"parameters": parameters, "attention": attention.get(address)}
        known = [matrix for matrix in alike.values() if matrix is not None]
        if not known:
            continue
        pairs = dict(zip(*(x.tolist() for x in linear_sum_assignment(known[0], maximize=True)), strict=True))
        for head in range(len(known[0])):
            other = pairs.get(head)
            numbers = {
                name: None if matrix is None or other is None else float(matrix[head, other]) for name, matrix in alike.items()
            }
            matches.append(Match(address, head, other, **numbers))
        alone = {*range(known[0].shape[1])} - {*pairs.values()}
        matches += [Match(address, None, head, None, None) for head in sorted(alone)]
    return matches


@torch.no_grad()
def _parameters_alike(first: Any, second: Any) -> Tensor | None:
    """(heads, heads), where both are ours and of the same widths."""
    if not isinstance(first, MultiHeadAttention) or not isinstance(second, MultiHeadAttention):
        return None
    rows = _by_head(first), _by_head(second)
    if rows[0].shape[1] != rows[1].shape[1]:
        return None
    return functional.cosine_similarity(rows[0][:, None], rows[1][None], dim=-1)


def _by_head(module: MultiHeadAttention) -> Tensor:
    """A row per head: its rows of W_Q, W_K and W_V, its columns of W_O."""
    group = module.num_heads // module.num_kv_heads
    heads = [module.q_proj.weight.unflatten(0, (module.num_heads, -1))]
    heads += [
        projection.weight.unflatten(0, (module.num_kv_heads, -1)).repeat_interleave(group, dim=0)
        for projection in (module.k_proj, module.v_proj)
    ]
    heads.append(module.out_proj.weight.unflatten(1, (module.num_heads, -1)).movedim(1, 0))
    return torch.cat([part.flatten(1) for part in heads], dim=1)


@torch.no_grad()
def _attention_alike(first: Checkpoint, second: Checkpoint, lines: Sequence[Line]) -> dict[str, Tensor]:
    """(heads, heads) for every address that both have, the mean over lines; what has other lengths in the two is left out."""
    sums = dict[str, list[Tensor]]()
    for line in tracked(lines, "comparing heads"):
        records = []
        for one in (first, second):
            with observe(one.model) as record:
                one.model(**one.batch([line]))
            records.append(record)
        for address in records[0].keys() & records[1].keys():
            calls = [record[address][0] for record in records]
            if calls[0].lse.shape[-1] == calls[1].lse.shape[-1] and calls[0].key.shape[-2] == calls[1].key.shape[-2]:
                both = similarity.weights({str(i): [call] for i, call in enumerate(calls)}).matrix
                sums.setdefault(address, []).append(both[: calls[0].num_heads, calls[0].num_heads :])
    return {address: torch.stack(found).mean(0) for address, found in sums.items()}
