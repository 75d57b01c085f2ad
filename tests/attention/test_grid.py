"""hw.attend and hw.attend_with_lse on every backend against the float64 reference, over the grid of what a call can be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any

import grid
import pytest
import torch
from grid import BATCHES, GROUP, HEAD_DIM, KEY_LEN, KV_HEADS, QUERY_LEN, VALUE_DIM, Case, Made, cases_for, make, pairs_of, ran
from reference import Reference, allowed_pairs
from torch import Tensor, nn

import headwise as hw


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    grid.small_blocks(monkeypatch)


GRID = [pytest.param(backend, case, id=f"{backend}-{case}") for backend in hw.backends for case in cases_for(backend)]


@pytest.mark.parametrize(("backend", "case"), GRID)
def test_backend_is_the_formula(backend: str, case: Case) -> None:
    train, made = case.mode == "train", make(case)
    assert made.reference.empty.any() == (case.rows == "empty")
    autocast = torch.autocast("cpu", torch.bfloat16) if case.autocast else nullcontext()
    fastest = "blocks" if made.blocks_pay else "formula" if case.scores == "softcap" else "sdpa"
    cannot = {name for name, axes in grid.CANNOT.items() for axis, values in axes.items() if getattr(case, axis) in values}
    faster = ("flex", "blocks", "sdpa", "formula")

    with autocast, torch.set_grad_enabled(train):
        choice = hw.which_backend(*made.tensors, **made.options)
        assert choice.backend == fastest
        assert tuple(choice.refused) == faster[: faster.index(fastest)]
        assert hw.which_backend(*made.tensors, **made.options, backend=backend).backend == backend
        unasked, kernel = ran(hw.attend, *made.tensors, **made.options)
        assert kernel == fastest
        grid.check_output(unasked, made, fastest)
        output, kernel = ran(hw.attend, *made.tensors, **made.options, backend=backend)
        assert kernel == backend
        grid.check_output(output, made, backend)
        for refused, reason in choice.refused.items():
            if refused in cannot:
                with pytest.raises(ValueError, match=re.escape(f"{refused!r} cannot evaluate this call: {reason}")):
                    hw.attend(*made.tensors, **made.options, backend=refused)
            else:  # would only be slower
                assert hw.which_backend(*made.tensors, **made.options, backend=refused).backend == refused
        (with_lse, lse), kernel = ran(hw.attend_with_lse, *made.tensors, **made.options, backend=backend)
        assert kernel == backend
        grid.check_output(with_lse, made, backend)
        grid.check_lse(lse, made, backend)
    if train:
        grid.check_gradients(made, backend, output)
        grid.check_gradients(made, backend, with_lse, lse)


@pytest.mark.parametrize("backend", hw.backends)
def test_the_grid_covers_every_pair(backend: str) -> None:
    cases = cases_for(backend)
    covered = set().union(*(pairs_of(vars(case)) for case in cases))
    assert covered == grid.pairs_to_cover(backend)
    assert len(set(cases)) >= 300


def test_sizes_are_distinct_primes() -> None:
    for query_len, value_dim in product(("q<k", "q>k"), ("v<d", "v>d")):
        sizes = [*BATCHES[2], GROUP, KV_HEADS, KEY_LEN, HEAD_DIM, QUERY_LEN[query_len], VALUE_DIM[value_dim]]
        assert len(set(sizes)) == len(sizes)
        assert all(n % d for n in sizes for d in range(2, n))


TRAINED = [entry for entry in GRID if entry.values[1].mode == "train"][::5]


@pytest.mark.parametrize(("backend", "case"), TRAINED)
def test_gradients_of_one_of_two_results(backend: str, case: Case) -> None:
    """An observed module wants lse beside an output that is trained; a loss may be of lse alone."""
    made = make(case)
    output, _ = hw.attend_with_lse(*made.tensors, **made.options, backend=backend)
    grid.check_gradients(made, backend, output)
    _, lse = hw.attend_with_lse(*made.tensors, **made.options, backend=backend)
    grid.check_gradients(made, backend, lse=lse)


# Rules whose bias is computed, by their definitions: sums of products, from a table of constants that the distances choose.
# Given absolute values they give the sums over absolute values.
Table = list[list[int]]


def t5_buckets(query: Tensor, key: Tensor, scale: float, constants: Tensor, weight: Tensor) -> Tensor:
    return weight[constants].permute(2, 0, 1)


def buckets_of(rule: hw.positions.T5Buckets, distances: Table) -> Tensor:
    def bucket(back: int) -> int:
        count, first = rule.num_buckets, 0
        if rule.bidirectional:
            count //= 2
            first, back = (count if back < 0 else 0), abs(back)
        half, back = count // 2, max(0, back)
        if back < half:
            return first + back
        return first + min(count - 1, half + int(math.log(back / half) / math.log(rule.max_distance / half) * (count - half)))

    return torch.tensor([[bucket(back) for back in row] for row in distances])


def shaw(query: Tensor, key: Tensor, scale: float, constants: Tensor, weight: Tensor) -> Tensor:
    return scale * torch.einsum("...id,ijd->...ij", query, weight[constants])


def rows_of(rule: hw.positions.Shaw, distances: Table) -> Tensor:
    return torch.tensor([[min(max(back, -rule.after), rule.before) + rule.after for back in row] for row in distances])


def transformer_xl(query: Tensor, key: Tensor, scale: float, constants: Tensor, u: Tensor, v: Tensor, **proj: Tensor) -> Tensor:
    relative = torch.einsum("ijc,hdc->hijd", constants, proj["proj.weight"].unflatten(0, u.shape))
    of_keys = torch.einsum("hd,...hjd->...hj", u, key)[..., None, :]
    return scale * (of_keys + torch.einsum("...hid,hijd->...hij", query + v[:, None], relative))


def sinusoids_of(rule: hw.positions.TransformerXL, distances: Table) -> Tensor:
    width = rule.proj.in_features

    def sinusoid(back: int) -> list[float]:
        return [(math.cos if c % 2 else math.sin)(back / 10000 ** ((c - c % 2) / width)) for c in range(width)]

    return torch.tensor([[sinusoid(back) for back in row] for row in distances], dtype=torch.float64)


class OfRule(Reference):
    """The reference of a call whose bias is computed: it is rounded in units of its own sum over absolute values, and its
    gradient goes on to what it is computed from."""

    def __init__(self, tensors: tuple[Tensor, ...], allowed: Tensor, name: str, rule: nn.Module, distances: Table) -> None:
        query, key, value = tensors
        _, added, constants_of = RULES[name]
        given = {"query": query, "key": key, **dict(rule.named_parameters())}
        self._computed: list[tuple[Tensor, dict[str, Tensor]]] = []
        for sign in (lambda x: x, torch.abs):  # the bias, then its sum over absolute values
            leaves = {name: sign(x.detach().double()).requires_grad_() for name, x in given.items()}
            query_leaf, key_leaf, *parameters = leaves.values()
            of_heads = key_leaf.repeat_interleave(GROUP, dim=-3)
            named = dict(zip(list(leaves)[2:], parameters, strict=True))
            bias = added(query_leaf, of_heads, query.shape[-1] ** -0.5, sign(constants_of(rule, distances)), **named)
            self._computed.append((bias.expand(allowed.shape), leaves))
        bias, size = (x.detach() for x, _ in self._computed)
        super().__init__(query, key, value, allowed, bias=bias)
        self.rough = self.weights * (1 + self.a - bias.abs() + size)
        self.output_scale = self.rough @ self._per_query_head(self.inputs["value"].detach().abs())
        self.lse_scale = self.rough.sum(-1) + self.lse.masked_fill(self.empty, 0.0).abs()

    def gradients(self, d_output: Tensor, d_lse: Tensor | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        direct = super().gradients(d_output, d_lse)
        through = [
            torch.autograd.grad(y, list(leaves.values()), d_y, retain_graph=True, materialize_grads=True)
            for (y, leaves), d_y in zip(self._computed, direct.pop("bias"), strict=True)
        ]
        for name, gradient, scale in zip(self._computed[0][1], *through, strict=True):
            old = direct.get(name, (torch.zeros(()), torch.zeros(())))
            direct[name] = old[0] + gradient, old[1] + scale
        return direct


HEADS = GROUP * KV_HEADS
RULES: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], Callable[[Any, Table], Tensor]]] = {
    "T5 both ways": (lambda: hw.positions.T5Buckets(HEADS, 10, 11), t5_buckets, buckets_of),
    "T5 one way": (lambda: hw.positions.T5Buckets(HEADS, 7, 13, bidirectional=False), t5_buckets, buckets_of),
    "Shaw": (lambda: hw.positions.Shaw(HEAD_DIM, before=7, after=5), shaw, rows_of),
    "Transformer-XL": (lambda: hw.positions.TransformerXL(11, HEADS, HEAD_DIM), transformer_xl, sinusoids_of),
}


@pytest.mark.parametrize("backend", ["formula", "sdpa", "blocks"])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("precision", ["float32", "float64", "autocast"])
@pytest.mark.parametrize("mask", ["none", "window"])
@pytest.mark.parametrize(("lengths", "batch"), list(zip(QUERY_LEN, BATCHES, strict=True)), ids=str)
def test_rule_is_its_definition(
    backend: str, name: str, precision: str, mask: str, lengths: str, batch: tuple[int, ...]
) -> None:
    """Values and gradients, those of the rule's own parameters among them. The window cuts keys off on both sides of a block
    and, with more queries than keys, empties rows. Under autocast nothing is less precise than without."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    query_len, value_dim = QUERY_LEN[lengths], VALUE_DIM["v<d"]
    shapes = (HEADS, query_len, HEAD_DIM), (KV_HEADS, KEY_LEN, HEAD_DIM), (KV_HEADS, KEY_LEN, value_dim)
    query, key, value = (torch.randn(*batch, *shape, dtype=dtype, requires_grad=True) for shape in shapes)
    rule = RULES[name][0]().to(dtype)
    for parameter in rule.parameters():
        nn.init.normal_(parameter)
    distances = [[i - j for j in range(KEY_LEN)] for i in range(KEY_LEN - query_len, KEY_LEN)]
    allowed = allowed_pairs(lambda b, h, i, j: mask == "none" or i - 6 <= j <= i, batch, HEADS, query_len, KEY_LEN)
    reference = OfRule((query, key, value), allowed, name, rule, distances)
    options = {"mask": None if mask == "none" else hw.masks.window(6, 0), "bias": rule}
    d_outputs = torch.randn_like(reference.output).to(dtype), torch.randn_like(reference.lse).to(dtype)
    made = Made((query, key, value), options, reference, d_outputs)
    assert len(made.leaves()) > 3

    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        output, kernel = ran(hw.attend, query, key, value, **options, backend=backend)
        assert kernel == backend
        (with_lse, lse), kernel = ran(hw.attend_with_lse, query, key, value, **options, backend=backend)
        assert kernel == backend
    grid.check_output(output, made, backend)
    grid.check_output(with_lse, made, backend)
    grid.check_lse(lse, made, backend)
    grid.check_gradients(made, backend, output)
    grid.check_gradients(made, backend, with_lse, lse)
