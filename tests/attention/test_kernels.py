"""Corners of the backends that no axis of the grid reaches: sizes of the kernels' own blocks, strides, what each refuses,
forward-mode derivatives, dropout read back, FlexAttention really compiled, and numbers that can be checked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import grid
import pytest
import torch
from grid import Made, check, check_gradients, check_lse, check_output, ran
from reference import May, Reference, allowed_pairs
from torch import Tensor
from torch.nn.attention import flex_attention
from torch.profiler import ProfilerActivity, profile

import headwise as hw
from headwise.attention import flex
from headwise.attention.backends import choose
from headwise.attention.functional import make_call

COMPILED = flex._kernel


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    grid.small_blocks(monkeypatch)


DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
PRECISIONS = [
    pytest.param(backend, dtype, id=f"{backend}-{dtype}")
    for backend in hw.backends
    for dtype in DTYPES
    if (backend, dtype) != ("flex", torch.float64)
]


@cache
def block_mask(kind: str, query_len: int, key_len: int, heads: int) -> Tensor:
    may: dict[str, May] = {
        "causal": lambda b, h, i, j: j <= i,
        "window": lambda b, h, i, j: i - 3 <= j <= i + 2,
        "left padding": lambda b, h, i, j: j >= 514,
    }
    return allowed_pairs(may[kind], (1,), heads, query_len, key_len)


@pytest.mark.parametrize("kind", ["causal", "window", "left padding"])
@pytest.mark.parametrize(("backend", "dtype"), PRECISIONS)
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
    learns = backend != "flex"
    query, key, value = (torch.randn(shape).to(dtype).requires_grad_(learns) for shape in shapes)
    reference = Reference(query, key, value, block_mask(kind, query_len, key_len, heads))
    d_lse = torch.randn(1, heads, query_len).to(torch.promote_types(dtype, torch.float32))
    d_outputs = torch.randn(1, heads, query_len, 7).to(dtype), d_lse
    made = Made((query, key, value), {"mask": rules[kind]}, reference, d_outputs)
    output, kernel = ran(hw.attend, query, key, value, mask=rules[kind], backend=backend)
    assert kernel == backend
    check_output(output, made, backend)
    with_lse, lse = hw.attend_with_lse(query, key, value, mask=rules[kind], backend=backend)
    check_output(with_lse, made, backend)
    check_lse(lse, made, backend)
    if learns:
        check_gradients(made, backend, output)
        check_gradients(made, backend, with_lse, lse)


def test_gradients_of_many_blocks() -> None:
    """A key that 256 blocks reach: their gradients, of one sign, are not added up in bfloat16, whose sums would stand still."""
    tensors = tuple(torch.randn(1, 1280, 7).bfloat16().requires_grad_() for _ in range(3))
    reference = Reference(*tensors, torch.ones(1, 1280, 1280).tril().bool())
    made = Made(tensors, {}, reference, (torch.rand(1, 1280, 7).bfloat16(), torch.rand(1, 1280)))
    output, kernel = ran(hw.attend, *tensors, mask=hw.masks.causal(), backend="blocks")
    assert kernel == "blocks"
    check_gradients(made, "blocks", output)


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


@pytest.mark.parametrize("scale", [-0.3, 0.0])
@pytest.mark.parametrize(("backend", "dtype"), PRECISIONS)
def test_scale_may_be_negative_or_zero(backend: str, scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    tensors = tuple(torch.randn(5, 3, 13, 23).to(dtype) for _ in range(3))
    reference = Reference(*tensors, allowed_pairs(lambda b, h, i, j: j <= i, (5,), 3, 13, 13), scale=scale)
    output = hw.attend(*tensors, mask=hw.masks.causal(), scale=scale, backend=backend)
    check("output", output, reference.output, reference.output_scale)


TENSORS = torch.randn(5, 6, 11, 23), torch.randn(5, 3, 13, 23), torch.randn(5, 3, 13, 19)
LEARNED = tuple(x.clone().requires_grad_() for x in TENSORS)
REFUSED: dict[str, tuple[str, str, tuple[Tensor, ...], dict[str, Any], str]] = {  # backend, what runs unasked, the call, why
    "softcap": ("sdpa", "formula", TENSORS, {"softcap": 2.0}, "knows no softcap"),
    "dropout": ("sdpa", "formula", TENSORS, {"dropout": 0.5}, "no dropout on the CPU"),
    "flex and float64": ("flex", "sdpa", tuple(x.double() for x in TENSORS), {}, "no kernel for float64"),
    "flex and a gradient": ("flex", "sdpa", LEARNED, {}, "no backward on the CPU"),
    "flex and a learned bias": (
        "flex", "sdpa", TENSORS, {"bias": torch.zeros(11, 13, requires_grad=True)}, "no backward on the CPU"
    ),
    "flex and learned buckets": ("flex", "sdpa", TENSORS, {"bias": hw.positions.T5Buckets(6)}, "not told of T5Buckets"),
    "flex and sinks": ("flex", "sdpa", TENSORS, {"sinks": torch.zeros(6)}, "no log-sum-exp on the CPU"),
    "flex and dropout": ("flex", "formula", TENSORS, {"dropout": 0.5}, "no dropout"),
    "flex and buckets": (
        "flex", "sdpa", TENSORS, {"bias": hw.positions.T5Buckets(6).requires_grad_(False)}, "not told of T5Buckets"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_backend_says_why_it_refuses(what: str) -> None:
    backend, runs, tensors, options, reason = REFUSED[what]
    choice = hw.which_backend(*tensors, **options)
    assert choice.backend == runs
    assert reason in choice.refused[backend]
    assert ran(hw.attend, *tensors, **options)[1] == runs
    for function in (hw.attend, hw.attend_with_lse, hw.which_backend):
        with pytest.raises(ValueError, match=f"'{backend}' cannot evaluate this call: .*{reason}"):
            function(*tensors, **options, backend=backend)


@pytest.mark.parametrize("options", [{"sinks": torch.zeros(6)}, {"bias": torch.zeros(11, 13, requires_grad=True)}], ids=str)
def test_the_fused_kernel_takes_sinks_and_learned_biases(options: dict[str, Any]) -> None:
    assert hw.which_backend(*LEARNED, **options).backend == "sdpa"
    assert ran(hw.attend, *LEARNED, **options)[1] == "sdpa"


def test_blocks_need_to_know_where_queries_stand() -> None:
    call = make_call(*TENSORS, hw.masks.window(3, 0), None, None, None, None, 0.0, positions=torch.arange(2, 13))
    assert choose(call).name == "sdpa"
    with pytest.raises(ValueError, match="'blocks' cannot evaluate this call: the positions of a cache are values"):
        choose(call, "blocks")


WINDOW, BIAS = hw.masks.window(2, 0), torch.zeros(11, 13)
WORTH: dict[str, tuple[tuple[Tensor, ...], dict[str, Any], str]] = {
    # 11 queries at positions 2 to 12, blocks of 5: the keys 0-6, 5-11 and 10-12 make 5 * 17 of 143 pairs, 59 %
    "window": (TENSORS, {"mask": WINDOW}, "blocks"),
    # 0-6, 4-11 and 9-12: 5 * 19 of 143 pairs, 66 %
    "a wider window": (TENSORS, {"mask": hw.masks.window(3, 0)}, "sdpa"),
    "window & padding": (LEARNED, {"mask": WINDOW & hw.masks.padding(torch.tensor([13, 7, 9, 11, 3]))}, "blocks"),
    "window | padding": (LEARNED, {"mask": WINDOW | hw.masks.padding(torch.tensor([13, 7, 9, 11, 3]))}, "sdpa"),
    "window as a matrix": (TENSORS, {"mask": torch.ones(11, 13).tril(2).triu().bool()}, "sdpa"),
    "one block": ((TENSORS[0][:, :, :5], *TENSORS[1:]), {"mask": hw.masks.window(1, 0)}, "sdpa"),
    "window and softcap": (LEARNED, {"mask": WINDOW, "softcap": 2.0}, "blocks"),
    "window and dropout": (LEARNED, {"mask": WINDOW, "dropout": 0.5}, "blocks"),
    "window and bias": (LEARNED, {"mask": WINDOW, "bias": BIAS}, "blocks"),
    "window and a learned bias": (TENSORS, {"mask": WINDOW, "bias": BIAS.clone().requires_grad_()}, "sdpa"),
    "window and learned buckets": (TENSORS, {"mask": WINDOW, "bias": hw.positions.T5Buckets(6)}, "blocks"),
}


@pytest.mark.parametrize("what", WORTH)
def test_blocks_run_unasked_where_they_leave_most_pairs_out(what: str) -> None:
    tensors, options, runs = WORTH[what]
    assert hw.which_backend(*tensors, **options).backend == runs
    assert ran(hw.attend, *tensors, **options)[1] == runs
    assert ran(hw.attend_with_lse, *tensors, **options)[1] == runs


# torch 2.13 when the first derivative in forward mode is taken
IN_FORWARD_MODE = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@IN_FORWARD_MODE
@pytest.mark.parametrize("mask", ["causal", "window"])
@pytest.mark.parametrize("options", ["plain", "bias", "sinks"])
def test_forward_mode_goes_by_the_formula(mask: str, options: str) -> None:
    """Against central differences of the reference, which are good to about 1e-9. Blocks hand theirs to the formula, too."""
    may: dict[str, May] = {"causal": lambda b, h, i, j: j <= i, "window": lambda b, h, i, j: i - 3 <= j <= i}
    rule = hw.masks.causal() if mask == "causal" else hw.masks.window(3, 0)
    shapes = {"query": (5, 6, 17, 23), "key": (5, 3, 13, 23), "value": (5, 3, 13, 19)}
    shapes |= {"bias": {"bias": (6, 17, 13)}, "sinks": {"sinks": (6,)}, "plain": {}}[options]
    x = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    t = {name: torch.randn_like(tensor) for name, tensor in x.items()}
    allowed = allowed_pairs(may[mask], (5,), 6, 17, 13)
    backends: list[str] = []

    def attend(x: dict[str, Tensor], backend: str | None = None) -> tuple[Tensor, Tensor]:
        tensors, more = list(x.values())[:3], dict(list(x.items())[3:])
        backends.append(hw.which_backend(*tensors, mask=rule, **more, backend=backend).backend)
        return hw.attend_with_lse(*tensors, mask=rule, **more, backend=backend)

    for backend in (None, "formula", "blocks"):
        values, derivatives = torch.func.jvp(lambda x, backend=backend: attend(x, backend), (x,), (t,))
        step = 1e-5
        high, low = (Reference(**{name: x[name] + sign * step * t[name] for name in x}, allowed=allowed) for sign in (1, -1))
        for name, value, derivative in zip(("output", "lse"), values, derivatives, strict=True):
            finite = value > -torch.inf
            want = (getattr(high, name) - getattr(low, name)) / (2 * step)
            torch.testing.assert_close(derivative[finite], want[finite], rtol=1e-7, atol=1e-7)
            assert (derivative[~finite] == 0).all()
    # Inside a transform a tensor hides its need of a gradient: a bias counts as learned, which is not taken in blocks unasked.
    unasked = "blocks" if mask == "window" and options != "bias" else "formula"
    assert backends == [unasked, "formula", "blocks"]


@IN_FORWARD_MODE
@pytest.mark.parametrize("moving", ["query", "key", "value", "bias"])
@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_kernels_refuse_forward_mode(backend: str, moving: str) -> None:
    x = dict(zip(("query", "key", "value", "bias"), (*TENSORS, torch.randn(6, 11, 13)), strict=True))

    def attend(tensor: Tensor) -> Tensor:
        return hw.attend(**{**x, moving: tensor}, backend=backend)

    with pytest.raises(ValueError, match=f"'{backend}' cannot evaluate this call: .* has no forward-mode derivative"):
        torch.func.jvp(attend, (x[moving],), (torch.ones_like(x[moving]),))


@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching rule")
def test_blocks_under_vmap() -> None:
    """Gradients per sequence: those of the sequences together, which are independent."""
    tensors = tuple(x.double() for x in TENSORS)

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        loss = lambda *x: hw.attend(*x, mask=WINDOW, backend="blocks").square().sum()
        return torch.func.grad(loss, argnums=(0, 1, 2))(*tensors)

    for have, want in zip(torch.func.vmap(gradients)(*tensors), gradients(*tensors), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-13, atol=1e-13)


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
@pytest.mark.parametrize("backend", ["formula", "blocks"])
def test_dropped_weights_read_back(backend: str, dtype: torch.dtype, sinks: Tensor | None) -> None:
    """With value = identity the output is the weights after dropout. Causal with more queries than keys: empty rows."""
    torch.manual_seed(4)
    share, options = 0.3, {"mask": hw.masks.causal(), "sinks": sinks}
    query, key = torch.randn(5, 6, 17, 23).to(dtype), torch.randn(5, 3, 13, 23).to(dtype)
    value = torch.randn(5, 3, 13, 19).to(dtype).requires_grad_()
    identity = torch.eye(13, dtype=dtype).expand(5, 3, 13, 13)
    reference = Reference(query, key, value, allowed_pairs(lambda b, h, i, j: j <= i, (5,), 6, 17, 13), sinks=sinks)

    def at_seed(value: Tensor, seed: int = 5) -> Tensor:
        torch.manual_seed(seed)
        output, kernel = ran(hw.attend, query, key, value, dropout=share, **options, backend=backend)
        assert kernel == backend
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

    def attend(self, backend: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        query, key = number(torch.eye(len(self.scores)).tolist()), number(self.scores).mT.contiguous()
        tensors = (x.to(dtype) for x in (query[None], key[None], number(self.value)[None, :, None]))
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
    dtype, precision = (torch.float32, 1e-6) if backend == "flex" else (torch.float64, 1e-14)
    if {"sdpa": "softcap", "flex": "sinks"}.get(backend) in golden.options:
        with pytest.raises(ValueError, match=f"'{backend}' cannot evaluate this call"):
            golden.attend(backend, dtype)
    else:
        for have, want in zip(golden.attend(backend, dtype), (golden.output, golden.lse), strict=True):
            torch.testing.assert_close(have, number(want).to(dtype), rtol=precision, atol=precision)


@pytest.mark.parametrize("backend", hw.backends)
def test_golden_default_scale_and_grouped_heads(backend: str) -> None:
    query = torch.tensor([2.0, 0, 0, 0]).expand(4, 1, 4)
    key = torch.tensor([[0.0, 5, 5, 5], [LOG3, 7, 7, 7]]).expand(2, 2, 4)
    value = torch.tensor([[[4.0], [8.0]], [[40.0], [80.0]]])
    output = hw.attend(query, key, value, backend=backend)  # scores 2 log 3 / sqrt 4; heads 0 and 1 read the first values
    torch.testing.assert_close(output[:, 0, 0], torch.tensor([7.0, 7.0, 70.0, 70.0]))


def quarters(b: tuple[int, ...], h: int, i: int, j: int) -> bool:
    return 4 * j // 263 == h and i != 140


# 131 queries stand at positions 132 to 262, the last of 263 keys, in blocks of 128 by 128: rules let some of them out, other
# ones for every sequence and head.
LEFT = torch.tensor([246, 0, 140])
IDS = torch.tensor([[0] * 91 + [1] * 60 + [2] * 112, [1] * 263, [0] * 260 + [1] * 3])
COMPILE: dict[str, tuple[torch.dtype, Any, May, dict[str, Any]]] = {
    "no rule": (torch.float32, None, lambda b, h, i, j: True, {}),
    "causal & padding on the left": (
        torch.bfloat16,
        hw.masks.causal() & hw.masks.padding(torch.arange(263) >= LEFT[:, None]),
        lambda b, h, i, j: (246, 0, 140)[b[0]] <= j <= i,
        {},
    ),
    "documents": (torch.bfloat16, hw.masks.documents(IDS), lambda b, h, i, j: IDS_OF[b[0]][i] == IDS_OF[b[0]][j], {}),
    "a matrix for every head": (torch.float32, hw.masks.dense(allowed_pairs(quarters, (), 4, 131, 263)), quarters, {}),
    "window and softcap": (torch.float32, hw.masks.window(3, 1), lambda b, h, i, j: i - 3 <= j <= i + 1, {"softcap": 1.7}),
    "another window": (torch.float32, hw.masks.window(2, 0), lambda b, h, i, j: i - 2 <= j <= i, {}),
    "causal and alibi": (torch.bfloat16, hw.masks.causal(), lambda b, h, i, j: j <= i, {"bias": hw.positions.Alibi(4)}),
}
IDS_OF: list[list[int]] = IDS.tolist()
EMPTY = "causal & padding on the left", "a matrix for every head"


@pytest.fixture(scope="module")
def _compile_anew() -> None:
    torch.compiler.reset()  # after 8 kernels in one process torch compiles no more; the cases here follow one another


@pytest.mark.slow
@pytest.mark.nohook
@pytest.mark.usefixtures("_compile_anew")
@pytest.mark.parametrize("name", COMPILE)
def test_flex_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_kernel", COMPILED)
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", False)
    dtype, mask, may, options = COMPILE[name]
    query, key, value = (torch.randn(shape).to(dtype) for shape in ((3, 4, 131, 23), (3, 2, 263, 23), (3, 2, 263, 29)))
    means = dict(options)
    if "bias" in options:
        slopes = torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256])
        means["bias"] = -slopes[:, None, None] * (torch.arange(132, 263)[:, None] - torch.arange(263)).abs()
    reference = Reference(query, key, value, allowed_pairs(may, (3,), 4, 131, 263), **means)
    made = Made((query, key, value), options, reference, (reference.output, reference.lse))
    assert reference.empty.any() == (name in EMPTY)
    output, lse = hw.attend_with_lse(query, key, value, mask=mask, **options, backend="flex")
    check_output(output, made, "flex")
    check_lse(lse, made, "flex")
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        again = hw.attend(query, key, value, mask=mask, **options, backend="flex")
    assert torch.equal(again, output)
    seen = {event.name for event in profiler.events()}
    assert any("CompiledFxGraph" in event for event in seen)
    assert not seen & {grid.FLASH, grid.SOFTMAX, "aten::bmm", "aten::matmul"}
