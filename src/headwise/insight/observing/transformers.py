"""Models of Hugging Face transformers: their attention calls a function that can be chosen by name, and while their heads are
looked at or operated on, it is the one below.

It computes what theirs computes, by the fastest of our backends; queries and keys come turned to their positions, and what is
added to scores comes along. Masks are read as rules where their functions are known ones (causal, windows, padding, packed
sequences), else as the tensors that they are.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, reduce
from operator import and_, or_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

from headwise.attention import masks, record
from headwise.attention.backends import choose
from headwise.attention.functional import make_call
from headwise.attention.masks import Mask
from headwise.attention.positions import Added

NAME = "headwise"  # of our function; with "sdpa" in it DETR would refuse it
SOURCES = ("key_value_states", "encoder_hidden_states", "cross_attention_states", "context")  # what else may be attended to


@dataclass(eq=False)
class Foreign:
    """An attention module of transformers, as observers and gates know it."""

    module: nn.Module
    num_heads: int
    gate: Tensor | None = None
    edit: Callable[[Tensor], Tensor] | None = None
    # Of its present call: queries and keys are of two sequences; keys lie in a cache that later steps write into.
    crosses: bool = False
    rewritten: bool = False


@dataclass(frozen=True, eq=False)
class Rules:
    """What a mask of theirs says. positions: where the queries stand, (query_len,), if not at the last keys."""

    mask: Mask | None
    bias: Added | None = None
    positions: Tensor | None = None


class Finite(Added):
    """A tensor that forbids nothing: kernels take it as it is."""

    forbids = False


FOREIGN = WeakIdKeyDictionary()  # module -> Foreign
BIASES = WeakTensorKeyDictionary()  # a table of positions -> whether all of it is finite
SUMS = WeakTensorKeyDictionary()  # a table of positions -> a mask of numbers, and both together: layers share them, too
RULES = WeakTensorKeyDictionary()  # a mask of theirs -> Rules; they hand the same tensor to every layer


def attention_modules(model: nn.Module) -> dict[str, Foreign]:
    """Those whose attention calls a function chosen by name, by their names in ``named_modules()``."""
    if "transformers" not in sys.modules:
        return {}
    found = {name: module for name, module in model.named_modules() if asks_for_function(module)}
    for module in found.values():
        if module not in FOREIGN:
            FOREIGN[module] = Foreign(module, _num_heads(module))
    return {name: FOREIGN[module] for name, module in found.items()}


@contextmanager
def adapted(model: nn.Module) -> Iterator[None]:
    """Inside, the model's attention is ours."""
    found = attention_modules(model)
    if not found:
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask_of)
    # Of other parts, whose attention is written out, masks would come in a form that they do not know.
    configs: dict[int, Any] = {id(it.module.config): it.module.config for it in found.values()}
    before = {key: config._attn_implementation_internal for key, config in configs.items()}
    hooks = [it.module.register_forward_pre_hook(_notice, with_kwargs=True) for it in found.values()]
    try:
        for config in configs.values():
            config._attn_implementation_internal = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
        for hook in hooks:
            hook.remove()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Their attention function: query (batch, heads, query_len, head_dim) -> (batch, query_len, heads, value_dim)."""
    found = FOREIGN.get(module)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    rules = _without_mask(query, key, causal) if attention_mask is None else _rules(attention_mask)
    bias = rules.bias
    if position_bias is not None:
        bias = _added(position_bias if bias is None else _sum(position_bias, bias.tensor))
    same, query = not (found is not None and found.crosses), query.expand(len(key), -1, -1, -1)
    call = make_call(query, key, value, rules.mask, bias, scaling, softcap, s_aux, dropout, same, rules.positions)
    watched = record.observer is not None
    heads, lse = choose(call).attend(call, watched)
    if watched:
        kept = replace(call, key=key.clone(), value=value.clone()) if found is not None and found.rewritten else call
        record.emit(module, kept, heads, lse)
    if found is not None and found.edit is not None:
        heads = found.edit(heads)
    if found is not None and found.gate is not None:
        heads = heads * found.gate.to(heads.dtype)[:, None, None]
    return heads.transpose(1, 2).contiguous(), None


def mask_of(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    **others: Any,
) -> Tensor | None:
    """Their mask function: what they make for their own fast kernel, and, remembered beside it, the rule that it is."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    function, sizes = mask_function or causal_mask_function, (batch_size, q_length, kv_length, q_offset, kv_offset)
    made = sdpa_mask(*sizes, mask_function=function, attention_mask=attention_mask, **others)
    if made is not None:
        try:
            rule = _rule(function)
        except KeyError:
            return made
        if attention_mask is not None:
            keep = attention_mask[:, kv_offset : kv_offset + kv_length].bool()
            padding = masks.padding(nn.functional.pad(keep, (0, kv_length - keep.shape[1])))
            rule = padding if rule is None else rule & padding
        last = q_offset + q_length == kv_offset + kv_length
        places = None if last else torch.arange(q_length, device=made.device) + q_offset - kv_offset
        RULES[made] = Rules(rule, positions=places)
    return made


def _rule(function: Callable[..., Any]) -> Mask | None:
    """The rule of a mask function of theirs, None = all; KeyError where it is none that is known."""
    kind, held = function.__qualname__.split(".")[0], inspect.getclosurevars(function).nonlocals
    if kind in ("and_masks", "or_masks"):
        parts = [_rule(part) for part in held["mask_functions"]]
        if kind == "or_masks":
            return None if None in parts else reduce(or_, parts)
        return reduce(and_, some) if (some := [part for part in parts if part is not None]) else None
    return KINDS[kind](held)


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Mask | None]] = {
    "causal_mask_function": lambda held: masks.causal(),
    "bidirectional_mask_function": lambda held: None,
    "sliding_window_overlay": lambda held: masks.window(held["sliding_window"] - 1, None),
    "sliding_window_bidirectional_overlay": lambda held: masks.window(held["sliding_window"], held["sliding_window"]),
    "packed_sequence_mask_function": lambda held: masks.documents(held["packed_sequence_mask"]),
    # Positions are counted anew in every packed sequence: between two of one sequence the distances stay.
    "remap_positions_for_packed_sequence": lambda held: _rule(held["mask_function"]),
}


def _rules(mask: Tensor) -> Rules:
    """What a mask that is a tensor says: booleans True = may attend, numbers are added, the lowest ones forbid."""
    known = RULES.get(mask)
    if known is not None:
        return known
    if mask.dtype == torch.bool:
        rules = Rules(masks.dense(mask))
    else:
        forbidden = mask <= torch.finfo(mask.dtype).min / 2
        added = mask.masked_fill(forbidden, 0.0)
        rules = Rules(masks.dense(~forbidden), Added(added) if added.requires_grad or bool(added.any()) else None)
    if not mask.requires_grad:
        RULES[mask] = rules
    return rules


def _added(bias: Tensor) -> Added:
    """What is added to scores; the layers of T5 share one table, which is looked through once."""
    if bias not in BIASES:
        BIASES[bias] = bool(bias.isfinite().all())
    return Finite(bias) if BIASES[bias] else Added(bias)


def _sum(table: Tensor, mask: Tensor) -> Tensor:
    if table.is_leaf and table.requires_grad:
        return table + mask  # whose graph would hold the table, and nothing would ever be forgotten
    if table not in SUMS or SUMS[table][0] is not mask:
        SUMS[table] = mask, table + mask
    return SUMS[table][1]


def _without_mask(query: Tensor, key: Tensor, causal: bool) -> Rules:
    """Theirs is then causal, from the first key on, or nothing is masked; a single query sees all."""
    query_len, key_len = query.shape[2], key.shape[2]
    if not causal or query_len == 1:
        return Rules(None)
    return Rules(masks.causal(), positions=None if query_len == key_len else torch.arange(query_len, device=query.device))


def asks_for_function(module: nn.Module) -> bool:
    return _asks(type(module))


@cache  # a model has few classes and many modules
def _asks(kind: type[nn.Module]) -> bool:
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def _num_heads(module: nn.Module) -> int:
    for name in ("num_heads", "num_attention_heads", "n_heads", "n_head"):
        if isinstance(getattr(module, name, None), int):
            return getattr(module, name)
    if hasattr(module, "q_proj") and hasattr(module, "head_dim"):
        return module.q_proj.out_features // module.head_dim  # type: ignore[operator, union-attr, return-value]
    return module.config.num_attention_heads  # type: ignore[union-attr, return-value]


def crosses(arguments: Mapping[str, Any]) -> bool:
    """Whether a call of a module with these arguments attends to another sequence."""
    return any(arguments.get(name) is not None and arguments[name] is not arguments.get("hidden_states") for name in SOURCES)


def arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    given = inspect.signature(type(module).forward).bind_partial(module, *args, **kwargs).arguments
    return given | given.get("kwargs", {})


def _notice(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given, it = arguments(module, args, kwargs), FOREIGN[module]
    it.crosses, it.rewritten = crosses(given), getattr(given.get("past_key_values"), "is_compileable", False)
