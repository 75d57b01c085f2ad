"""hw.attention_weights: tiles of scores and weights, and the mask rules that are evaluated on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import May, Reference, allowed_pairs, tolerance
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import headwise as hw
from headwise.attention.masks import Mask
from headwise.attention.tiles import Select, Tile

BATCH, HEADS, KV_HEADS, QUERY_LEN, KEY_LEN, HEAD_DIM = 5, 6, 3, 11, 13, 7
STAGES = ("product", "capped", "masked", "weights")
SELECTIONS: dict[str, Select | None] = {
    "all": None,
    "middle": slice(3, 8),
    "every third": slice(1, None, 3),
    "last": slice(-1, None),
    "none": slice(4, 4),
    "listed": torch.tensor([7, 0, 10, 7]),
}


@dataclass
class Made:
    query: Tensor
    key: Tensor
    options: dict[str, Any]
    allowed: Tensor

    def reference(self) -> Reference:
        options = {name: option for name, option in self.options.items() if name != "mask"}
        return Reference(self.query, self.key, self.key, self.allowed, **options)


def make(dtype: torch.dtype = torch.float64, sinks: bool = False) -> Made:
    """Every option at once. Causal with padding on the left: queries 0 and 1 of sequence 0 are empty."""
    torch.manual_seed(7)
    query, key = (torch.randn(BATCH, h, n, HEAD_DIM).to(dtype) for h, n in ((HEADS, QUERY_LEN), (KV_HEADS, KEY_LEN)))
    bias = torch.randn(HEADS, QUERY_LEN, KEY_LEN).to(dtype)
    bias[torch.rand(bias.shape) < 0.1] = -torch.inf
    keep = torch.arange(KEY_LEN) >= torch.tensor([4, 0, 1, 2, 0])[:, None]
    options = {"mask": hw.masks.causal() & hw.masks.padding(keep), "bias": bias, "softcap": 1.7, "scale": 0.6}
    options |= {"sinks": torch.randn(HEADS).to(dtype)} if sinks else {}
    flags = keep.tolist()
    allowed = allowed_pairs(lambda b, h, i, j: j <= i and flags[b[0]][j], (BATCH,), HEADS, QUERY_LEN, KEY_LEN)
    return Made(query, key, options, allowed)


def part(x: Tensor, rows: Select | None, columns: Select | None) -> Tensor:
    x = x if rows is None else x[..., rows, :]
    return x if columns is None else x[..., columns]


@pytest.mark.parametrize("stage", STAGES)
def test_stages(stage: str) -> None:
    made = make()
    product = 0.6 * made.query @ made.key.repeat_interleave(2, dim=1).mT
    capped = 1.7 * torch.tanh(product / 1.7)
    masked = (capped + made.options["bias"]).masked_fill(~made.allowed, -torch.inf)
    want = {"product": product, "capped": capped, "masked": masked, "weights": made.reference().weights}[stage]
    got = hw.attention_weights(made.query, made.key, **made.options, stage=stage)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sinks", [False, True], ids=["plain", "sinks"])
@pytest.mark.parametrize("rows", SELECTIONS)
def test_a_tile_is_the_slice_of_the_whole(stage: str, sinks: bool, rows: str) -> None:
    made = make(sinks=sinks)
    whole = hw.attention_weights(made.query, made.key, **made.options, stage=stage)
    assert whole.shape == (BATCH, HEADS, QUERY_LEN, KEY_LEN)
    for columns in SELECTIONS.values():
        chosen = {"rows": SELECTIONS[rows], "columns": columns}
        tile = hw.attention_weights(made.query, made.key, **made.options, stage=stage, **chosen)
        torch.testing.assert_close(tile, part(whole, **chosen), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("sinks", [False, True], ids=["plain", "sinks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_rows_sum_to_what_sinks_and_masks_leave(dtype: torch.dtype, sinks: bool, autocast: bool) -> None:
    made = make(dtype, sinks)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        weights = hw.attention_weights(made.query, made.key, **made.options)
    assert weights.dtype == torch.promote_types(dtype, torch.float32)
    reference = made.reference()
    assert ((weights.double() - reference.weights).abs() <= tolerance(weights.dtype, reference.weights_scale)).all()

    left = (~reference.empty).double()
    if sinks:
        left = left * (1 - (made.options["sinks"].double()[:, None] - reference.lse).exp())
    assert reference.empty[0, :, :2].all()
    assert ((weights.double().sum(-1) - left).abs() <= tolerance(weights.dtype, reference.weights_scale.sum(-1))).all()
    assert torch.equal(weights[reference.empty], torch.zeros_like(weights[reference.empty]))
    assert (weights.masked_select(~made.allowed) == 0).all()


class Largest(TorchDispatchMode):
    """The most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("stage", STAGES)
def test_a_tile_does_not_build_the_rest(stage: str) -> None:
    length, heads = 1009, 3
    query, key = torch.randn(heads, length, HEAD_DIM), torch.randn(heads, length, HEAD_DIM)
    mask = hw.masks.causal() & hw.masks.padding(torch.tensor(997)) & ~hw.masks.window(0, 0)
    mask = mask | hw.masks.documents(torch.arange(length) // 3)
    rows = slice(500, 502)
    with Largest() as largest:
        hw.attention_weights(query, key, mask=mask, rows=rows, columns=torch.tensor([1, 3, 5]), stage=stage)
    of_rows = heads * 2 * length if stage == "weights" else 0  # the denominator needs whole rows
    assert largest.elements <= max(of_rows, key.numel())


@dataclass
class Rule:
    mask: Mask
    may: May
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass
class Drawn:
    batch: tuple[int, ...]
    heads: int
    query_len: int
    key_len: int
    rule: Rule
    rows: Select
    columns: Select


def selections(length: int) -> st.SearchStrategy[Select]:
    ends = st.none() | st.integers(-length - 1, length + 1)
    listed = st.lists(st.integers(-length, length - 1), min_size=1, max_size=4).map(torch.tensor)
    return st.builds(slice, ends, ends, st.none() | st.integers(1, 3)) | listed


@st.composite
def drawn_calls(draw: st.DrawFn) -> Drawn:
    batch = draw(st.sampled_from([(), (2,), (3, 2)]))
    heads, query_len, key_len = (draw(st.integers(1, n)) for n in (3, 5, 5))
    sequences = list(product(*map(range, batch)))

    def numbers(low: int, high: int, *shape: int) -> st.SearchStrategy[Tensor]:
        size = math.prod((*batch, *shape))
        listed = st.lists(st.integers(low, high), min_size=size, max_size=size)
        return listed.map(lambda x: torch.tensor(x).reshape((*batch, *shape)))

    def per_sequence(tensor: Tensor) -> dict[tuple[int, ...], Any]:
        return {b: tensor[b].tolist() for b in sequences}

    def causal() -> Rule:
        return Rule(hw.masks.causal(), lambda b, h, i, j: j <= i, "causal()")

    def window(before: int | None, after: int | None) -> Rule:
        def may(b: tuple[int, ...], h: int, i: int, j: int) -> bool:
            return (before is None or i - before <= j) and (after is None or j <= i + after)

        return Rule(hw.masks.window(before, after), may, f"window({before}, {after})")

    def lengths(tensor: Tensor) -> Rule:
        of = per_sequence(tensor)
        return Rule(hw.masks.padding(tensor), lambda b, h, i, j: j < of[b], f"padding({tensor.tolist()})")

    def keep(tensor: Tensor) -> Rule:
        of = per_sequence(tensor)
        return Rule(hw.masks.padding(tensor.bool()), lambda b, h, i, j: of[b][j] == 1, f"padding({tensor.bool().tolist()})")

    def prefix(tensor: Tensor) -> Rule:
        of = per_sequence(tensor)
        return Rule(hw.masks.prefix(tensor), lambda b, h, i, j: j < of[b], f"prefix({tensor.tolist()})")

    def documents(tensor: Tensor) -> Rule:
        of = per_sequence(tensor)
        return Rule(hw.masks.documents(tensor), lambda b, h, i, j: of[b][i] == of[b][j], f"documents({tensor.tolist()})")

    def dense(tensor: Tensor) -> Rule:
        of, first = tensor.tolist(), key_len - query_len
        return Rule(hw.masks.dense(tensor.bool()), lambda b, h, i, j: of[i - first][j] == 1, f"dense({of})")

    width = st.none() | st.integers(0, 3)
    flags = st.lists(st.integers(0, 1), min_size=query_len * key_len, max_size=query_len * key_len)
    leaves = [
        st.builds(causal),
        st.builds(window, width, width),
        st.builds(lengths, numbers(0, key_len)),
        st.builds(keep, numbers(0, 1, key_len)),
        st.builds(prefix, numbers(0, key_len)),
        st.builds(dense, flags.map(lambda x: torch.tensor(x).reshape(query_len, key_len))),
    ]
    leaves += [st.builds(documents, numbers(0, 2, key_len))] if query_len <= key_len else []

    def both(one: Rule, two: Rule) -> Rule:
        return Rule(one.mask & two.mask, lambda *at: one.may(*at) and two.may(*at), f"({one} & {two})")

    def either(one: Rule, two: Rule) -> Rule:
        return Rule(one.mask | two.mask, lambda *at: one.may(*at) or two.may(*at), f"({one} | {two})")

    def no(one: Rule) -> Rule:
        return Rule(~one.mask, lambda *at: not one.may(*at), f"~{one}")

    rules = st.recursive(
        st.one_of(leaves), lambda x: st.builds(both, x, x) | st.builds(either, x, x) | st.builds(no, x), max_leaves=4
    )
    return Drawn(batch, heads, query_len, key_len, draw(rules), draw(selections(query_len)), draw(selections(key_len)))


@settings(max_examples=60, deadline=None)
@given(drawn_calls())
def test_a_rule_on_a_tile_is_the_tile_of_the_dense_mask(call: Drawn) -> None:
    batch, heads, query_len, key_len = call.batch, call.heads, call.query_len, call.key_len
    whole = allowed_pairs(call.rule.may, batch, heads, query_len, key_len)
    want = part(whole, call.rows, call.columns)
    tile = Tile(query_len, key_len, call.rows, call.columns, torch.device("cpu"), len(call.batch))
    assert torch.equal(call.rule.mask.allows(tile).expand(want.shape), want)

    query, key = torch.ones(*batch, heads, query_len, 2), torch.ones(*batch, heads, key_len, 2)
    for mask in (call.rule.mask, whole):
        got = hw.attention_weights(query, key, mask=mask, rows=call.rows, columns=call.columns, stage="masked")
        assert torch.equal(got > -torch.inf, want)

    everything = slice(None)
    whole_tile = Tile(query_len, key_len, everything, everything, torch.device("cpu"), len(call.batch))
    flag = call.rule.mask.flag(whole_tile)
    if flag == "all":
        assert whole.all()
    elif flag == "causal":
        assert query_len == key_len
        assert torch.equal(torch.ones(query_len, key_len).tril().bool().expand_as(whole), whole)
    if call.rule.mask.sees_itself():
        positions = range(max(0, key_len - query_len), key_len)
        assert all(whole[..., i - (key_len - query_len), i].all() for i in positions)
    for size in (1, 2, 5):
        reach = call.rule.mask.reach(whole_tile, size)
        if reach is not None:
            assert len(reach) == -(-query_len // size)
            for rows, keys in zip(whole.split(size, dim=-2), reach, strict=True):
                outside = [j for j in range(key_len) if j not in keys]
                assert not rows[..., outside].any()
