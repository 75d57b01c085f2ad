"""hw.attend and hw.attend_with_lse on every backend against the float64 reference, over the grid of what a call can be."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import cache
from itertools import combinations, product
from typing import Any

import pytest
import torch
from reference import May, Reference, allowed_pairs, rounded_once, tolerance
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import headwise as hw
from headwise.attention.backends import choose
from headwise.attention.functional import make_call

GROUP, KV_HEADS, KEY_LEN, HEAD_DIM, BATCHES = 2, 3, 17, 23, ((), (5,), (5, 7))
QUERY_LEN = {"q<k": 13, "q=k": 17, "q>k": 19}
VALUE_DIM = {"v<d": 11, "v=d": 23, "v>d": 29}
SOFTCAP = 1.7
FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"

AXES: dict[str, tuple[Any, ...]] = {
    "mask": ("none", "dense", "lengths", "keep", "causal", "causal&keep", "window", "documents", "prefix"),
    "lengths": tuple(QUERY_LEN),
    "scores": ("plain", "bias", "softcap", "sinks"),
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


def possible(backend: str, mask: str, lengths: str, scores: str, rows: str) -> bool:
    """Whether such a call exists and the backend takes it. Where the mask empties no row, -inf in the bias can."""
    if (mask == "documents" and lengths == "q>k") or (backend == "sdpa" and scores in ("softcap", "sinks")):
        return False
    return rows in natural_rows(mask, lengths) or (rows == "empty" and scores == "bias")


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
    bound, free = list(AXES)[:4], list(AXES)[4:]
    pairs: set[Pair] = set()
    for values in product(*(AXES[name] for name in bound)):
        if possible(backend, *values):
            choice = dict(zip(bound, values, strict=True))
            pairs |= pairs_of(choice)
            pairs |= {frozenset((x, (name, y))) for x in choice.items() for name in free for y in AXES[name]}
    for one, other in combinations(free, 2):
        pairs |= {frozenset(((one, x), (other, y))) for x in AXES[one] for y in AXES[other]}
    return pairs


@cache
def cases_for(backend: str, count: int = 320) -> tuple[Case, ...]:
    """``count`` cases, the same in every run: those it takes to cover every pair of axis values, then random ones.

    Few of the latter have two batch dimensions, which cost most of the time.
    """
    rng = random.Random(f"grid {backend}")

    def draws(fixed: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while True:
            choice = {name: fixed.get(name, rng.choice(values)) for name, values in AXES.items()}
            if possible(backend, *list(choice.values())[:4]):
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
            tensor, ids = per_sequence([[rng.randrange(3) for _ in range(KEY_LEN)] for _ in sequences])
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


@dataclass
class Made:
    """The tensors of a case, and what the reference says about them."""

    tensors: tuple[Tensor, Tensor, Tensor]
    options: dict[str, Any]
    reference: Reference
    d_outputs: tuple[Tensor, Tensor]

    def leaves(self) -> dict[str, Tensor]:
        named = dict(zip(("query", "key", "value"), self.tensors, strict=True))
        named |= {name: self.options[name] for name in ("bias", "sinks") if self.options.get(name) is not None}
        return {name: tensor for name, tensor in named.items() if tensor.requires_grad}


def make(case: Case, learned_bias: bool) -> Made:
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
    if case.scores == "bias":
        options["bias"] = make_bias(case, batch, heads, query_len, dtype).requires_grad_(learned_bias)
    elif case.scores == "softcap":
        options["softcap"] = SOFTCAP
    elif case.scores == "sinks":
        options["sinks"] = torch.randn(heads).to(dtype).requires_grad_()
    reference = Reference(*tensors, allowed_pairs(may, batch, heads, query_len, KEY_LEN), **options)
    d_output = torch.randn(*batch, heads, query_len, value_dim).to(dtype)
    d_lse = torch.randn(*batch, heads, query_len).to(torch.promote_types(dtype, torch.float32))
    return Made(tensors, options | {"mask": mask}, reference, (d_output, d_lse))


def ran(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, str]:
    """What a call returns, and the backend that the profiler saw."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        result = function(*args, **options)
    names = {event.name for event in profiler.events()}
    backend = {(True, False): "sdpa", (False, True): "formula"}[FLASH in names, "aten::_softmax" in names]
    return result, backend


def check(
    what: str, got: Tensor | None, want: Tensor, scale: Tensor, once: bool = False, dtype: torch.dtype | None = None
) -> None:
    assert got is not None
    assert got.shape == want.shape
    allowance = rounded_once(got.dtype, want, scale) if once else tolerance(dtype or got.dtype, scale)
    share = ((got.double() - want).abs() / allowance).nan_to_num(torch.inf)
    assert (share <= 1).all(), f"{what}: {share.max():.2f} times the tolerance"


def check_output(output: Tensor, made: Made, kernel: str) -> None:
    reference = made.reference
    assert output.dtype == made.tensors[0].dtype
    check("output", output, reference.output, reference.output_scale, once=kernel == "formula" and output.itemsize == 2)
    assert torch.equal(output[reference.empty], torch.zeros_like(output[reference.empty]))


def check_lse(lse: Tensor, made: Made, kernel: str) -> None:
    reference, finite, dtype = made.reference, made.reference.lse > -torch.inf, made.tensors[0].dtype
    assert lse.dtype == torch.promote_types(dtype, torch.float32)
    precision = lse.dtype if kernel == "formula" else dtype  # the kernel's exp is made for the precision of its inputs
    check("lse", lse[finite], reference.lse[finite], reference.lse_scale[finite], dtype=precision)
    assert (lse[~finite] == -torch.inf).all()
    assert "sinks" in reference.inputs or torch.equal(finite, ~reference.empty)


def check_gradients(outputs: list[Tensor], made: Made, kernel: str) -> None:
    leaves, (d_output, d_lse) = made.leaves(), made.d_outputs
    got = torch.autograd.grad(outputs, list(leaves.values()), made.d_outputs[: len(outputs)], materialize_grads=True)
    wanted = made.reference.gradients(d_output, d_lse if len(outputs) == 2 else None)
    for (name, leaf), gradient in zip(leaves.items(), got, strict=True):
        assert gradient.dtype == leaf.dtype
        assert gradient.isfinite().all()
        once = kernel == "formula" and leaf.itemsize == 2 and name != "sinks"  # which enter output and lse apart
        check(f"gradient of {name}", gradient, *wanted[name], once=once)
        if name == "query":
            of_empty = gradient[made.reference.empty]
            assert torch.equal(of_empty, torch.zeros_like(of_empty))


GRID = [pytest.param(backend, case, id=f"{backend}-{case}") for backend in hw.backends for case in cases_for(backend)]


@pytest.mark.parametrize(("backend", "case"), GRID)
def test_backend_is_the_formula(backend: str, case: Case) -> None:
    train = case.mode == "train"
    made = make(case, learned_bias=backend == "formula" or not train)
    assert made.reference.empty.any() == (case.rows == "empty")
    autocast = torch.autocast("cpu", torch.bfloat16) if case.autocast else nullcontext()
    bias = made.options.get("bias")
    sdpa_takes_it = case.scores in ("plain", "bias") and not (train and bias is not None and bias.requires_grad)
    fastest = "sdpa" if sdpa_takes_it else "formula"
    assert sdpa_takes_it or backend != "sdpa"

    with autocast, torch.set_grad_enabled(train):
        choice = hw.which_backend(*made.tensors, **made.options)
        assert choice.backend == fastest
        assert set(choice.refused) == {"sdpa"} - {fastest}
        assert hw.which_backend(*made.tensors, **made.options, backend=backend).backend == backend
        output, kernel = ran(hw.attend, *made.tensors, **made.options, backend=backend)
        assert kernel == backend
        unasked, kernel = ran(hw.attend, *made.tensors, **made.options)
        assert kernel == fastest
        check_output(output, made, backend)
        check_output(unasked, made, fastest)
        for refused, reason in choice.refused.items():
            with pytest.raises(ValueError, match=f"'{refused}' cannot evaluate this call: {reason}"):
                hw.attend(*made.tensors, **made.options, backend=refused)

        if backend == "sdpa" and train:
            with pytest.raises(ValueError, match="no gradient for the log-sum-exp"):
                hw.attend_with_lse(*made.tensors, **made.options, backend=backend)
            lse = None
        else:
            (with_lse, lse), kernel = ran(hw.attend_with_lse, *made.tensors, **made.options, backend=backend)
            assert kernel == backend
            check_output(with_lse, made, backend)
            check_lse(lse, made, backend)
    if train:
        check_gradients([output], made, backend)
        if lse is not None:
            check_gradients([with_lse, lse], made, backend)


@pytest.mark.parametrize("backend", hw.backends)
def test_the_grid_covers_every_pair(backend: str) -> None:
    cases = cases_for(backend)
    covered = set().union(*(pairs_of(vars(case)) for case in cases))
    assert covered == pairs_to_cover(backend)
    assert len(set(cases)) >= 300


def test_sizes_are_distinct_primes() -> None:
    for query_len, value_dim in product(("q<k", "q>k"), ("v<d", "v>d")):
        sizes = [*BATCHES[2], GROUP, KV_HEADS, KEY_LEN, HEAD_DIM, QUERY_LEN[query_len], VALUE_DIM[value_dim]]
        assert len(set(sizes)) == len(sizes)
        assert all(n % d for n in sizes for d in range(2, n))


@cache
def block_mask(kind: str, query_len: int, key_len: int, heads: int) -> Tensor:
    may: dict[str, May] = {
        "causal": lambda b, h, i, j: j <= i,
        "window": lambda b, h, i, j: i - 3 <= j <= i + 2,
        "left padding": lambda b, h, i, j: j >= 514,
    }
    return allowed_pairs(may[kind], (1,), heads, query_len, key_len)


@pytest.mark.parametrize("backend", hw.backends)
@pytest.mark.parametrize("kind", ["causal", "window", "left padding"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_blocks_that_a_row_does_not_see(backend: str, kind: str, dtype: torch.dtype) -> None:
    """Longer than a block of the fused kernel (32 queries, 512 keys): rows whose first or last block is all forbidden."""
    torch.manual_seed(1)
    query_len, key_len, heads = 37, 521, 2
    rules = {
        "causal": hw.masks.causal(),
        "window": hw.masks.window(3, 2),
        "left padding": hw.masks.padding(torch.arange(key_len)[None] >= 514),
    }
    shapes = (1, heads, query_len, 5), (1, 1, key_len, 5), (1, 1, key_len, 7)
    query, key, value = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    reference = Reference(query, key, value, block_mask(kind, query_len, key_len, heads))
    d_outputs = torch.randn(1, heads, query_len, 7).to(dtype), torch.zeros(1, heads, query_len)
    made = Made((query, key, value), {"mask": rules[kind]}, reference, d_outputs)
    output, kernel = ran(hw.attend, query, key, value, mask=rules[kind], backend=backend)
    assert kernel == backend
    check_output(output, made, backend)
    check_gradients([output], made, backend)
    with torch.no_grad():
        check_lse(hw.attend_with_lse(query, key, value, mask=rules[kind], backend=backend)[1], made, backend)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "every second channel": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "channels before length": lambda x: x.mT.contiguous().mT,
    "part of a cache": lambda x: torch.cat([x, x], dim=-2)[..., : x.shape[-2], :],
    "one sequence for all": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("backend", hw.backends)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lse", [False, True], ids=["output", "lse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_strides_change_neither_kernel_nor_result(backend: str, layout: str, lse: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    tensors = tuple(LAYOUTS[layout](torch.randn(5, 3, length, 23).to(dtype)) for length in (11, 13, 13))
    reference = Reference(*tensors, allowed_pairs(lambda b, h, i, j: j <= i, (5,), 3, 11, 13))
    result, kernel = ran(hw.attend_with_lse if lse else hw.attend, *tensors, mask=hw.masks.causal(), backend=backend)
    output = result[0] if lse else result
    check("output", output, reference.output, reference.output_scale)
    if lse:
        check("lse", result[1], reference.lse, reference.lse_scale, dtype=dtype)
    assert kernel == backend


@pytest.mark.parametrize("case", [case for case in cases_for("sdpa") if case.mode == "train"][::5], ids=str)
def test_gradients_of_an_observed_call(case: Case) -> None:
    """An observed module wants lse beside an output that is trained: another entry into the fused kernel."""
    made = make(case, learned_bias=False)
    call = make_call(*made.tensors, made.options["mask"], made.options.get("bias"), made.options["scale"], None, None, 0.0)
    (output, lse), kernel = ran(choose(call).attend, call, True)
    assert kernel == "sdpa"
    check_output(output, made, kernel)
    check_lse(lse.detach(), made, kernel)
    check_gradients([output], made, kernel)


@pytest.mark.parametrize("backend", hw.backends)
@pytest.mark.parametrize("scale", [-0.3, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_scale_may_be_negative_or_zero(backend: str, scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    tensors = tuple(torch.randn(5, 3, 13, 23).to(dtype) for _ in range(3))
    reference = Reference(*tensors, allowed_pairs(lambda b, h, i, j: j <= i, (5,), 3, 13, 13), scale=scale)
    output = hw.attend(*tensors, mask=hw.masks.causal(), scale=scale, backend=backend)
    check("output", output, reference.output, reference.output_scale)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"softcap": 2.0}, "softcap"),
        ({"sinks": torch.zeros(3)}, "sinks"),
        ({"bias": torch.zeros(11, 13, requires_grad=True)}, "gradient for the bias"),
        ({"dropout": 0.5}, "dropout on the CPU"),
    ],
    ids=["softcap", "sinks", "learned bias", "dropout"],
)
def test_sdpa_says_why_it_refuses(options: dict[str, Any], reason: str) -> None:
    tensors = torch.randn(5, 3, 11, 23), torch.randn(5, 3, 13, 23), torch.randn(5, 3, 13, 19)
    choice = hw.which_backend(*tensors, **options)
    assert choice.backend == "formula"
    assert reason in choice.refused["sdpa"]
    assert ran(hw.attend, *tensors, **options)[1] == "formula"
    for function in (hw.attend, hw.attend_with_lse, hw.which_backend):
        with pytest.raises(ValueError, match=reason):
            function(*tensors, **options, backend="sdpa")


@pytest.mark.parametrize(
    ("batch", "query_len", "key_len", "value_dim"),
    [(0, 11, 13, 19), (5, 0, 13, 19), (5, 11, 0, 19), (5, 11, 13, 0)],
    ids=["batch", "query_len", "key_len", "value_dim"],
)
def test_axes_of_length_zero(batch: int, query_len: int, key_len: int, value_dim: int) -> None:
    shapes = (batch, 3, query_len, 23), (batch, 3, key_len, 23), (batch, 3, key_len, value_dim)
    tensors = tuple(torch.randn(shape, requires_grad=True) for shape in shapes)
    assert "at least one" in hw.which_backend(*tensors).refused["sdpa"]
    output, lse = hw.attend_with_lse(*tensors)
    assert output.shape == (batch, 3, query_len, value_dim)
    assert lse.shape == (batch, 3, query_len)
    assert key_len or ((output == 0).all() and (lse == -torch.inf).all())
    output.sum().backward()
    assert all(x.grad is not None and (x.grad == 0).all() for x in tensors[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, -0.5])], ids=["plain", "sinks"])
def test_dropped_weights_read_back(dtype: torch.dtype, sinks: Tensor | None) -> None:
    """With value = identity the output is the weights after dropout. Causal with more queries than keys: empty rows."""
    torch.manual_seed(4)
    share, options = 0.3, {"mask": hw.masks.causal(), "sinks": sinks}
    query, key = torch.randn(5, 6, 17, 23).to(dtype), torch.randn(5, 3, 13, 23).to(dtype)
    value = torch.randn(5, 3, 13, 19).to(dtype).requires_grad_()
    identity = torch.eye(13, dtype=dtype).expand(5, 3, 13, 13)
    reference = Reference(query, key, value, allowed_pairs(lambda b, h, i, j: j <= i, (5,), 6, 17, 13), sinks=sinks)

    def at_seed(value: Tensor, seed: int = 5) -> Tensor:
        torch.manual_seed(seed)
        output, kernel = ran(hw.attend, query, key, value, dropout=share, **options)
        assert kernel == "formula"
        return output

    dropped = at_seed(identity)
    kept, allowed = dropped != 0, reference.weights > 0
    check("kept weights", dropped[kept], reference.weights[kept] / (1 - share), reference.weights_scale[kept] / (1 - share))
    assert not (kept & ~allowed).any()
    for head in range(6):
        count = allowed[:, head].sum()
        assert abs((kept & allowed)[:, head].sum() / count - (1 - share)) < 5 * math.sqrt(share * (1 - share) / count)
    assert torch.equal(at_seed(identity), dropped)
    assert not torch.equal(at_seed(identity, seed=6), dropped)

    exact = (reference.weights * kept / (1 - share)).unflatten(1, (3, 2))
    rough = (reference.weights_scale / (1 - share)).unflatten(1, (3, 2))
    output, d_output = at_seed(value), torch.randn(5, 6, 17, 19).to(dtype)
    of_head, d_head = value.detach().double()[:, :, None], d_output.double().unflatten(1, (3, 2))
    check("output", output, (exact @ of_head).flatten(1, 2), (rough @ of_head.abs()).flatten(1, 2))
    (gradient,) = torch.autograd.grad(output, value, d_output)
    check("gradient of value", gradient, (exact.mT @ d_head).sum(2), (rough.mT @ d_head.abs()).sum(2))


LOG2, LOG3, LOG4, LOG8, NOTHING = math.log(2), math.log(3), math.log(4), math.log(8), -math.inf
CAP = LOG3 / math.tanh(1)


def number(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


@dataclass
class Golden:
    """One head whose queries are unit vectors, so that scores[i][j] = q_i . k_j; one number per value."""

    scores: list[list[float]]
    value: list[float]
    options: dict[str, Any]
    output: list[float]
    lse: list[float]

    def attend(self, backend: str) -> tuple[Tensor, Tensor]:
        query, key = number(torch.eye(len(self.scores)).tolist()), number(self.scores).mT.contiguous()
        tensors = query[None], key[None], number(self.value)[None, :, None]
        output, lse = hw.attend_with_lse(*tensors, scale=1.0, **self.options, backend=backend)
        return output[0, :, 0], lse[0]


EQUAL, VALUE, MASKS = [[0.0] * 3] * 3, [1, 3, 8], hw.masks
CAUSAL, PREFIX = {"mask": MASKS.causal()}, {"mask": MASKS.causal() | MASKS.prefix(torch.tensor(2))}
DOCUMENTS, PADDING = {"mask": MASKS.documents(torch.tensor([7, 7, 9]))}, {"mask": MASKS.padding(torch.tensor(2))}
GOLDENS = {
    "scores 0 and log 3 weigh 1/4 and 3/4": Golden([[0, LOG3]], [4, 8], {}, [1 + 6], [LOG4]),
    "scores 5000 apart": Golden([[5000, 0], [0, -5000]], [4, 8], {}, [4, 4], [5000, 0]),
    "equal scores give the mean": Golden(EQUAL, VALUE, {}, [4, 4, 4], [LOG3] * 3),
    "causal: running means": Golden(EQUAL, VALUE, CAUSAL, [1, 2, 4], [0, LOG2, LOG3]),
    "causal: the last query stands at the last key": Golden(EQUAL[:2], VALUE, CAUSAL, [2, 4], [LOG2, LOG3]),
    "causal: a query before the first key is empty": Golden([[0] * 2] * 3, [1, 3], CAUSAL, [0, 1, 2], [NOTHING, 0, LOG2]),
    "window(1, 0): two keys": Golden(EQUAL, VALUE, {"mask": MASKS.window(1, 0)}, [1, 2, 5.5], [0, LOG2, LOG2]),
    "documents 7 7 9": Golden(EQUAL, VALUE, DOCUMENTS, [2, 2, 8], [LOG2, LOG2, 0]),
    "causal or prefix 2": Golden(EQUAL, VALUE, PREFIX, [2, 2, 4], [LOG2, LOG2, LOG3]),
    "padding after 2": Golden(EQUAL, VALUE, PADDING, [2, 2, 2], [LOG2, LOG2, LOG2]),
    "a bias weighs like a score": Golden([[0, 0]], [4, 8], {"bias": number([[0, LOG3]])}, [7], [LOG4]),
    "bias -inf forbids": Golden([[0, LOG3]], [4, 8], {"bias": number([[0, NOTHING]])}, [4], [0]),
    "a score equal to the softcap: tanh 1 of it": Golden([[0, CAP]], [4, 8], {"softcap": CAP}, [7], [LOG4]),
    "a sink of log 4 takes half": Golden([[0, LOG3]], [4, 8], {"sinks": number([LOG4])}, [3.5], [LOG8]),
}


@pytest.mark.parametrize("backend", hw.backends)
@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name: str, backend: str) -> None:
    golden = GOLDENS[name]
    if backend == "sdpa" and {"softcap", "sinks"} & golden.options.keys():
        with pytest.raises(ValueError, match="the kernel knows no"):
            golden.attend(backend)
    else:
        for have, want in zip(golden.attend(backend), (golden.output, golden.lse), strict=True):
            torch.testing.assert_close(have, number(want), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("backend", hw.backends)
def test_golden_default_scale_and_grouped_heads(backend: str) -> None:
    query = torch.tensor([2.0, 0, 0, 0]).expand(4, 1, 4)
    key = torch.tensor([[0.0, 5, 5, 5], [LOG3, 7, 7, 7]]).expand(2, 2, 4)
    value = torch.tensor([[[4.0], [8.0]], [[40.0], [80.0]]])
    output = hw.attend(query, key, value, backend=backend)  # scores 2 log 3 / sqrt 4; heads 0 and 1 read the first values
    torch.testing.assert_close(output[:, 0, 0], torch.tensor([7.0, 7.0, 70.0, 70.0]))
