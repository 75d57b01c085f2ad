"""The grid of what a call of attention can be: its cases, their tensors with a float64 reference, which kernel ran, and the
checks against the reference."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from itertools import combinations, product
from typing import Any

import pytest
import torch
from reference import May, Reference, allowed_pairs, rounded_once, tolerance
from torch import Tensor, nn
from torch.nn.attention import flex_attention
from torch.profiler import ProfilerActivity, profile

import headwise as hw
from headwise.attention import blocks, flex

GROUP, KV_HEADS, KEY_LEN, HEAD_DIM, BATCHES = 2, 3, 17, 23, ((), (5,), (5, 7))
QUERY_LEN = {"q<k": 13, "q=k": 17, "q>k": 19}
VALUE_DIM = {"v<d": 11, "v=d": 23, "v>d": 29}
SOFTCAP = 1.7
FLASH, SOFTMAX, FLEX = "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_softmax", "FlexAttentionAutogradOp"
ROWS = 5  # of a block: every case has several

AXES: dict[str, tuple[Any, ...]] = {
    "mask": ("none", "dense", "lengths", "keep", "causal", "causal&keep", "window", "documents", "prefix"),
    "lengths": tuple(QUERY_LEN),
    "scores": ("plain", "bias", "learned bias", "alibi", "softcap", "sinks"),
    "rows": ("full", "empty"),
    "heads": ("equal", "grouped"),
    "widths": tuple(VALUE_DIM),
    "dtype": ("float32", "float64", "bfloat16", "float16"),
    "autocast": ("", "autocast"),
    "batch": (0, 1, 2),
    "mode": ("train", "no_grad"),
    "layout": ("packed", "heads-last"),
    "scale": ("", "scaled"),
}
CANNOT: dict[str, dict[str, tuple[Any, ...]]] = {
    "formula": {},
    "sdpa": {"scores": ("softcap",)},
    "blocks": {},
    "flex": {"scores": ("sinks",), "dtype": ("float64",), "mode": ("train",)},
}


def axes_of(backend: str) -> dict[str, tuple[Any, ...]]:
    """The axes without the values that a backend refuses on the CPU."""
    return {name: tuple(x for x in values if x not in CANNOT[backend].get(name, ())) for name, values in AXES.items()}


@dataclass(frozen=True)
class Case:
    mask: str
    lengths: str
    scores: str
    rows: str
    heads: str
    widths: str
    dtype: str
    autocast: str
    batch: int
    mode: str
    layout: str
    scale: str

    @property
    def seed(self) -> int:
        return random.Random(str(self)).randrange(2**31)

    def __str__(self) -> str:
        values = (getattr(self, field.name) for field in fields(self))
        return "-".join(f"batch{value}" if isinstance(value, int) else value for value in values if value != "")


def possible(mask: str, lengths: str, scores: str, rows: str) -> bool:
    """Whether such a call exists. Where the mask empties no row, -inf in the bias can."""
    if mask == "documents" and lengths == "q>k":
        return False
    return rows in natural_rows(mask, lengths) or (rows == "empty" and scores in ("bias", "learned bias"))


def natural_rows(mask: str, lengths: str) -> tuple[str, ...]:
    if mask in ("none", "documents"):
        return ("full",)
    if mask in ("dense", "lengths", "keep"):
        return ("full", "empty")
    if lengths == "q>k":  # the first queries stand before the first key
        return ("empty",) if mask in ("causal", "causal&keep") else ("full", "empty")
    return ("full", "empty") if mask == "causal&keep" else ("full",)


Pair = frozenset[tuple[str, Any]]


def pairs_of(choice: dict[str, Any]) -> set[Pair]:
    return {frozenset(pair) for pair in combinations(choice.items(), 2)}


def pairs_to_cover(backend: str) -> set[Pair]:
    axes = axes_of(backend)
    bound, free = list(axes)[:4], list(axes)[4:]
    pairs: set[Pair] = set()
    for values in product(*(axes[name] for name in bound)):
        if possible(*values):
            choice = dict(zip(bound, values, strict=True))
            pairs |= pairs_of(choice)
            pairs |= {frozenset((x, (name, y))) for x in choice.items() for name in free for y in axes[name]}
    for one, other in combinations(free, 2):
        pairs |= {frozenset(((one, x), (other, y))) for x in axes[one] for y in axes[other]}
    return pairs


@cache
def cases_for(backend: str, count: int = 320) -> tuple[Case, ...]:
    """``count`` cases, the same in every run: those it takes to cover every pair of axis values, then random ones.

    Few of the latter have two batch dimensions, which cost most of the time.
    """
    rng, axes = random.Random(f"grid {backend}"), axes_of(backend)

    def draws(fixed: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while True:
            choice = {name: fixed.get(name, rng.choice(values)) for name, values in axes.items()}
            if possible(*list(choice.values())[:4]):
                yield choice

    chosen: dict[Case, None] = {}
    missing = sorted(pairs_to_cover(backend), key=lambda pair: sorted(map(str, pair)))
    while missing:
        choice = next(draws(dict(missing[0])))
        chosen[Case(**choice)] = None
        missing = [pair for pair in missing if pair not in pairs_of(choice)]
    while len(chosen) < count:
        chosen[Case(**next(draws({"batch": rng.choice((0, 0, 0, 1, 1, 1, 2))})))] = None
    return tuple(chosen)


def make_mask(case: Case, batch: tuple[int, ...], heads: int, query_len: int) -> tuple[hw.masks.Mask | Tensor | None, May]:
    """A rule of hw.masks and, in plain Python, what it means."""
    rng, sequences = random.Random(case.seed), list(product(*map(range, batch)))
    empty = case.rows == "empty" and "empty" in natural_rows(case.mask, case.lengths)

    def per_sequence(values: list[Any]) -> tuple[Tensor, dict[tuple[int, ...], Any]]:
        tensor = torch.tensor(values)
        return tensor.reshape(batch + tensor.shape[1:]), dict(zip(sequences, values, strict=True))

    def lengths() -> tuple[Tensor, dict[tuple[int, ...], int]]:
        values = [rng.randint(1, KEY_LEN) for _ in sequences]
        return per_sequence([0, *values[1:]] if empty else values)

    match case.mask:
        case "none":
            return None, lambda b, h, i, j: True
        case "dense":
            tensor = torch.rand(broadcastable(rng, batch, heads, query_len)) < 0.6
            tensor.view(-1, KEY_LEN)[:, rng.randrange(KEY_LEN)] = True
            if empty:
                tensor.view(-1, KEY_LEN)[::3] = False
            flags = tensor.expand(*batch, heads, query_len, KEY_LEN).tolist()
            mask, first = rng.choice((tensor, hw.masks.dense(tensor))), KEY_LEN - query_len
            return mask, lambda b, h, i, j: at(flags, *b, h, i - first, j)
        case "lengths":
            tensor, length = lengths()
            return hw.masks.padding(tensor), lambda b, h, i, j: j < length[b]
        case "keep":
            rows = [[rng.random() < 0.5 for _ in range(KEY_LEN - 1)] + [True] for _ in sequences]
            tensor, keep = per_sequence([[False] * KEY_LEN, *rows[1:]] if empty else rows)
            return hw.masks.padding(tensor), lambda b, h, i, j: keep[b][j]
        case "causal":
            return hw.masks.causal(), lambda b, h, i, j: j <= i
        case "causal&keep":  # padding on the left empties the first queries
            lefts = [rng.randint(5, 9) if empty else 0 for _ in sequences]
            rows = [[left <= j <= left + 4 for j in range(KEY_LEN)] for left in lefts]
            tensor, keep = per_sequence(rows)
            return hw.masks.causal() & hw.masks.padding(tensor), lambda b, h, i, j: j <= i and keep[b][j]
        case "window":
            before, after = rng.choice((0, 3, None)), rng.choice((0, 1) if empty or case.lengths != "q>k" else (5, None))
            low, high = (math.inf if width is None else width for width in (before, after))
            return hw.masks.window(before, after), lambda b, h, i, j: i - low <= j <= i + high
        case "documents":
            order = rng.choice((sorted, list))  # one after the other, as packed, or mixed
            tensor, ids = per_sequence([order(rng.randrange(3) for _ in range(KEY_LEN)) for _ in sequences])
            return hw.masks.documents(tensor), lambda b, h, i, j: ids[b][i] == ids[b][j]
        case "prefix":
            tensor, length = lengths()
            return hw.masks.causal() | hw.masks.prefix(tensor), lambda b, h, i, j: j <= i or j < length[b]
    raise AssertionError(case.mask)


def at(nested: Any, *index: int) -> Any:
    for i in index:
        nested = nested[i]
    return nested


def broadcastable(rng: random.Random, batch: tuple[int, ...], heads: int, query_len: int) -> tuple[int, ...]:
    """A shape that broadcasts to the scores: leading dimensions missing, 1 or whole."""
    leading = [rng.choice((1, size)) for size in (*batch, heads)][rng.randint(0, len(batch) + 1) :]
    return (*leading, query_len, KEY_LEN)


def make_bias(case: Case, batch: tuple[int, ...], heads: int, query_len: int, dtype: torch.dtype) -> Tensor:
    bias = torch.randn(broadcastable(random.Random(case.seed + 1), batch, heads, query_len)).to(dtype)
    if case.rows == "empty":
        bias[torch.rand(bias.shape) < 0.1] = -torch.inf
        bias[..., 2::5, :] = -torch.inf
    return bias


def make_alibi(case: Case, heads: int, query_len: int) -> tuple[hw.positions.Bias, Tensor]:
    """The rule, with slopes of its own or the paper's (3 heads take every second one of 4 after those of 2), and its bias."""
    slopes = {3: (1 / 16, 1 / 256, 1 / 4), 6: (1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8)}[heads]
    rng, own = random.Random(case.seed + 2), None
    if rng.random() < 0.5:
        slopes = own = tuple(rng.uniform(-0.2, 0.7) for _ in range(heads))
    positions = range(KEY_LEN - query_len, KEY_LEN)
    bias = [[[-slope * abs(i - j) for j in range(KEY_LEN)] for i in positions] for slope in slopes]
    return hw.positions.Alibi(heads, own), torch.tensor(bias, dtype=torch.float64)


@dataclass
class Made:
    """The tensors of a case, and what the reference says about them."""

    tensors: tuple[Tensor, Tensor, Tensor]
    options: dict[str, Any]
    reference: Reference
    d_outputs: tuple[Tensor, Tensor]
    blocks_pay: bool = False

    def leaves(self) -> dict[str, Tensor]:
        named = dict(zip(("query", "key", "value"), self.tensors, strict=True))
        named |= {name: self.options[name] for name in ("bias", "sinks") if isinstance(self.options.get(name), Tensor)}
        if isinstance(self.options.get("bias"), nn.Module):
            named |= dict(self.options["bias"].named_parameters())
        return {name: tensor for name, tensor in named.items() if tensor.requires_grad}


def make(case: Case) -> Made:
    torch.manual_seed(case.seed)
    dtype, batch = getattr(torch, case.dtype), BATCHES[case.batch]
    heads = KV_HEADS * (GROUP if case.heads == "grouped" else 1)
    query_len, value_dim = QUERY_LEN[case.lengths], VALUE_DIM[case.widths]

    def tensor(heads: int, length: int, width: int) -> Tensor:
        if case.layout == "packed":
            return torch.randn(*batch, heads, length, width).to(dtype).requires_grad_()
        return torch.randn(*batch, length, heads, width).to(dtype).transpose(-3, -2).requires_grad_()

    tensors = tensor(heads, query_len, HEAD_DIM), tensor(KV_HEADS, KEY_LEN, HEAD_DIM), tensor(KV_HEADS, KEY_LEN, value_dim)
    mask, may = make_mask(case, batch, heads, query_len)
    options: dict[str, Any] = {"scale": 0.31 if case.scale else None}
    rule: dict[str, Any] = {}
    if case.scores in ("bias", "learned bias"):
        options["bias"] = make_bias(case, batch, heads, query_len, dtype).requires_grad_(case.scores == "learned bias")
    elif case.scores == "alibi":
        rule["bias"], options["bias"] = make_alibi(case, heads, query_len)
    elif case.scores == "softcap":
        options["softcap"] = SOFTCAP
    elif case.scores == "sinks":
        options["sinks"] = torch.randn(heads).to(dtype).requires_grad_()
    allowed = allowed_pairs(may, batch, heads, query_len, KEY_LEN)
    reference = Reference(*tensors, allowed, **options)
    d_output = torch.randn(*batch, heads, query_len, value_dim).to(dtype)
    d_lse = torch.randn(*batch, heads, query_len).to(torch.promote_types(dtype, torch.float32))
    made = Made(tensors, options | {"mask": mask} | rule, reference, (d_output, d_lse))
    learns = case.scores == "learned bias" and case.mode == "train"  # its gradient is as large as the matrix
    if case.mask in ("causal", "causal&keep", "window", "documents") and not learns:
        # What positions and documents allow: which keys are padding is not known to the rule that cuts.
        reached = allowed if case.mask != "causal&keep" else allowed_pairs(lambda b, h, i, j: j <= i, (), 1, query_len, KEY_LEN)
        made.blocks_pay = share_in_blocks(reached) <= 0.6
    return made


def share_in_blocks(reached: Tensor) -> float:
    """Of all pairs, those in blocks of rows by the keys from the first to the last that some row of the block may reach in
    some sequence."""
    pairs = 0
    for block in reached.flatten(0, -3).any(0).split(ROWS):
        keys = block.any(0).nonzero().flatten().tolist() or [0, -1]
        pairs += ROWS * (keys[-1] + 1 - keys[0])
    return pairs / (reached.shape[-2] * reached.shape[-1])


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, and FlexAttention evaluated without the compiler, by a switch that torch has for debugging: what
    the rules lower to is the same, and a case takes milliseconds."""
    monkeypatch.setattr(blocks, "ROWS", ROWS)
    monkeypatch.setattr(flex, "_kernel", lambda device: flex_attention.flex_attention)
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def ran(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, str]:
    """What a call returns, and the backend that the profiler saw."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        result = function(*args, **options)
    # What profiler.events() is made of; to make it would take most of the time of all tests.
    seen = Counter(event.name() for event in profiler.profiler.kineto_results.events())
    flash, softmax, of_flex = seen[FLASH], seen[SOFTMAX], seen[FLEX]
    if of_flex:
        assert (of_flex, flash, softmax) == (1, 0, 1)  # the softmax is its own
        return result, "flex"
    assert (flash == 0) != (softmax == 0), f"{flash} fused kernels and {softmax} softmaxes ran"
    return result, "blocks" if flash + softmax > 1 else "sdpa" if flash else "formula"


def check(
    what: str, got: Tensor | None, want: Tensor, scale: Tensor, once: bool = False, dtype: torch.dtype | None = None
) -> None:
    assert got is not None
    assert got.shape == want.shape
    allowance = rounded_once(got.dtype, want, scale) if once else tolerance(dtype or got.dtype, scale)
    share = ((got.double() - want).abs() / allowance).nan_to_num(torch.inf)
    assert (share <= 1).all(), f"{what}: {share.max():.2f} times the tolerance"


def of_formula(backend: str, made: Made) -> bool:
    """Whether the formula computes the output: the whole, or all blocks where their kernel refuses."""
    return backend == "formula" or (backend == "blocks" and made.options.get("softcap") is not None)


def check_output(output: Tensor, made: Made, backend: str) -> None:
    reference, once = made.reference, of_formula(backend, made) and output.itemsize == 2
    assert output.dtype == made.tensors[0].dtype
    check(f"output of {backend}", output, reference.output, reference.output_scale, once=once)
    assert torch.equal(output[reference.empty], torch.zeros_like(output[reference.empty]))


def check_lse(lse: Tensor, made: Made, backend: str) -> None:
    reference, finite, dtype = made.reference, made.reference.lse > -torch.inf, made.tensors[0].dtype
    assert lse.dtype == torch.promote_types(dtype, torch.float32)
    # The fused kernel's exp is made for the precision of its inputs; beside FlexAttention the formula evaluates lse on the CPU.
    precise = of_formula(backend, made) or backend == "flex"
    check(
        f"lse of {backend}",
        lse[finite],
        reference.lse[finite],
        reference.lse_scale[finite],
        dtype=lse.dtype if precise else dtype,
    )
    assert (lse[~finite] == -torch.inf).all()
    assert "sinks" in reference.inputs or torch.equal(finite, ~reference.empty)


def check_gradients(made: Made, backend: str, output: Tensor | None = None, lse: Tensor | None = None) -> None:
    """Gradients of every leaf from the output, from lse or from both."""
    leaves, (d_output, d_lse) = made.leaves(), made.d_outputs
    used = [(y, d_y) for y, d_y in ((output, d_output), (lse, d_lse)) if y is not None]
    outputs, d_outputs = zip(*used, strict=True)
    got = torch.autograd.grad(outputs, list(leaves.values()), d_outputs, materialize_grads=True)
    d_output = torch.zeros_like(d_output) if output is None else d_output
    wanted = made.reference.gradients(d_output, None if lse is None else d_lse)
    for (name, leaf), gradient in zip(leaves.items(), got, strict=True):
        assert gradient.dtype == leaf.dtype
        assert gradient.isfinite().all()
        once = backend == "formula" and leaf.itemsize == 2 and name != "sinks"  # which enter output and lse apart
        check(f"gradient of {name} of {backend}", gradient, *wanted[name], once=once)
        if name == "query":
            of_empty = gradient[made.reference.empty]
            assert torch.equal(of_empty, torch.zeros_like(of_empty))
