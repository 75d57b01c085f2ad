"""Fewer heads in a module: some are kept, or key-value heads are pooled. Weights really go, and rules follow."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor, nn

from headwise.attention.module import PROJECTIONS, MultiHeadAttention
from headwise.attention.positions import Added, Alibi, Bias, Shaw, T5Buckets, TransformerXL

PLAIN = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)  # the latter is out_proj of torch's attention
INPUTS: dict[type, tuple[type, ...]] = {}  # of attention classes that hold the rows of q_proj, k_proj and v_proj elsewhere


def key_heads_of(module: MultiHeadAttention, heads: Sequence[int]) -> list[int]:
    """The key-value heads that stay where these query heads do, and no change yet.

    Raises ValueError unless heads are some of the module's, in order; whole groups are left out or equally many heads of each;
    and projections and rule are of a kind that can be cut.
    """
    _check(module, INPUTS.get(type(module), PLAIN))
    size = module.num_heads // module.num_kv_heads
    if not heads or sorted({*heads} & {*range(module.num_heads)}) != list(heads):
        raise ValueError(f"expected some of the heads 0 to {module.num_heads - 1}, at least one to stay; got {list(heads)}")
    counts = [sum(head // size == group for head in heads) for group in range(module.num_kv_heads)]
    if len(set(counts) - {0}) > 1:
        raise ValueError(
            f"{size} query heads share a key-value head: whole groups can go, or equally many heads of each group that stays; "
            f"of the {module.num_kv_heads} groups {counts} heads would stay"
        )
    if isinstance(module.position, Bias):
        some_heads(module.position, heads)
    return [group for group, count in enumerate(counts) if count]


def take_heads(module: MultiHeadAttention, heads: Sequence[int], kv_heads: Sequence[int]) -> None:
    """Keeps these query heads and these key-value heads: rows of q_proj, k_proj and v_proj, columns of out_proj, biases,
    sinks, and what the rule of positions holds for each head. The parameters are new ones; nn.Linear modules stay."""
    take_rows(module, heads, kv_heads)
    module.out_proj.weight = part_of(module.out_proj.weight, 1, heads, module.value_dim)
    if module.sinks is not None:
        module.sinks = part_of(module.sinks, 0, heads)
    if isinstance(module.position, Bias):
        module.position = some_heads(module.position, heads)
    module.heads = tuple(module.heads[head] for head in heads)
    _count(module, len(heads), len(kv_heads))


@singledispatch
def take_rows(module: MultiHeadAttention, heads: Sequence[int], kv_heads: Sequence[int]) -> None:
    """Keeps the rows of these heads in q_proj, k_proj and v_proj. A class that holds them elsewhere registers how."""
    key_dim, value_dim = module.head_dim, module.value_dim
    rows = {"q_proj": (heads, key_dim), "k_proj": (kv_heads, key_dim), "v_proj": (kv_heads, value_dim)}
    for name, (kept, width) in rows.items():
        projection = module.get_submodule(name)
        for leaf, parameter in list(projection.named_parameters(recurse=False)):
            setattr(projection, leaf, part_of(parameter, 0, kept, width))


def pool_key_heads(module: MultiHeadAttention, num_kv_heads: int) -> None:
    """Key and value projections of neighbouring heads become their mean (Ainslie et al. 2023, section 2.1).

    Raises ValueError where num_kv_heads does not divide those that there are.
    """
    for name, width in (("k_proj", module.head_dim), ("v_proj", module.value_dim)):
        projection = module.get_submodule(name)
        for leaf, parameter in list(projection.named_parameters(recurse=False)):
            groups = parameter.detach().unflatten(0, (num_kv_heads, -1, width))
            setattr(projection, leaf, nn.Parameter(groups.mean(1).flatten(0, 1), parameter.requires_grad))
    _count(module, module.num_heads, num_kv_heads)


def check_pooling(module: MultiHeadAttention, num_kv_heads: int) -> None:
    """Raises ValueError where ``pool_key_heads`` cannot."""
    if type(module) in INPUTS:
        raise ValueError(
            "torch's parameters have no place for fewer key heads than query heads: make a hw.MultiHeadAttention of it, which "
            'can be grouped, by hw.weights.read(layer, "torch")'
        )
    _check(module, PLAIN)
    if num_kv_heads < 1 or module.num_kv_heads % num_kv_heads:
        raise ValueError(f"num_kv_heads must divide the {module.num_kv_heads} that there are; got {num_kv_heads}")


@singledispatch
def some_heads(rule: Bias, heads: Sequence[int]) -> Bias:
    """The rule for some of its heads. A rule of your own registers how: ``some_heads.register``."""
    raise ValueError(f"{type(rule).__name__} does not say what remains of it for some heads: register that with some_heads")


@some_heads.register
def _(rule: Shaw, heads: Sequence[int]) -> Bias:
    return rule  # one table for all heads


@some_heads.register
def _(rule: Alibi, heads: Sequence[int]) -> Bias:
    return replace(rule, num_heads=len(heads), slopes=[rule.each[head] for head in heads])


@some_heads.register
def _(rule: T5Buckets, heads: Sequence[int]) -> Bias:
    part = copy(rule)  # with the same parameter: layers share the table, and it stays whole
    read = range(rule.weight.shape[1])[rule.heads] if isinstance(rule.heads, slice) else rule.heads
    part.heads = [read[head] for head in heads]
    return part


@some_heads.register
def _(rule: TransformerXL, heads: Sequence[int]) -> Bias:
    part, head_dim = deepcopy(rule), rule.u.shape[1]
    part.proj.weight = part_of(rule.proj.weight, 0, heads, head_dim)
    part.proj.out_features = len(part.proj.weight)
    part.u, part.v = part_of(rule.u, 0, heads), part_of(rule.v, 0, heads)
    return part


@some_heads.register
def _(rule: Added, heads: Sequence[int]) -> Bias:
    per_head = rule.tensor.dim() > 2 and rule.tensor.shape[-3] > 1
    return Added(part_of(rule.tensor, rule.tensor.dim() - 3, heads)) if per_head else rule


def part_of(x: Tensor, dim: int, heads: Sequence[int], width: int = 1) -> nn.Parameter:
    """Of a dimension in which heads of a width lie side by side, those of some heads."""
    parts = x.detach().unflatten(dim, (-1, width))
    kept = parts.index_select(dim, torch.tensor(heads, device=x.device)).flatten(dim, dim + 1)
    return nn.Parameter(kept, x.requires_grad)


def _count(module: MultiHeadAttention, num_heads: int, num_kv_heads: int) -> None:
    module.num_heads, module.num_kv_heads = num_heads, num_kv_heads
    for name in PROJECTIONS:
        projection = module.get_submodule(name)
        projection.out_features, projection.in_features = projection.weight.shape  # type: ignore[union-attr,assignment]


def _check(module: MultiHeadAttention, inputs: tuple[type, ...]) -> None:
    for name in PROJECTIONS:
        kind = type(module.get_submodule(name))
        if kind not in (PLAIN if name == "out_proj" else inputs):
            raise ValueError(f"{name} is a {kind.__name__}: heads are cut out of nn.Linear, so cut before you wrap or quantise")
