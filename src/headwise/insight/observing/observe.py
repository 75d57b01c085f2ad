"""Recording what the heads of a model compute."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attention import record as emission
from headwise.attention.formula import Call
from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import Added
from headwise.attention.record import Recorded
from headwise.insight.observing import eager, transformers
from headwise.insight.observing.keep import Keep
from headwise.insight.observing.record import Record
from headwise.insight.observing.transformers import Foreign
from headwise.models.checkpoint.heads import attentions, uncompiled

log = logging.getLogger("headwise")


@contextmanager
def observe(model: nn.Module, keep: Keep | None = None) -> Iterator[Record]:
    """Records every call of the model's attention modules: ``with hw.observe(model) as record: model(x)``.

    record["encoder.layers.0.self_attention"] holds query, key, value, the rules, lse and head_outputs, detached; weights are
    computed from them when asked for, so nothing (query_len, key_len) is kept but what the model itself forms, once and by
    reference (``record.kept``): do not write into it. keep: ``hw.Keep``, for long inputs (None = everything, in memory).

    The model is one of ours, one of Hugging Face transformers, or holds such. Theirs run on ``hw.attend`` meanwhile: rows of
    padding may come out otherwise, and dropout be drawn otherwise. Families of theirs that write attention out in their own
    code (a warning, once, names the first such class) are recorded by the weights that they return: no query, key, value and
    head_outputs then.

    Outside the context nothing is recorded and a compiled graph is what it was. Inside, a compiled model breaks its graph at
    each attention, or, with fullgraph=True, raises. A checkpointed module (torch.utils.checkpoint) must run its backward pass
    inside too, and records its recomputation as a call of its own. Raises RuntimeError where another observation is on,
    ValueError where the model has no attention module.
    """
    model = uncompiled(model)
    found, written_out, wish, record = _operable(model), eager.attention_modules(model), keep or Keep(), Record()
    if written_out:
        warn_of(type(next(iter(written_out.values()))))
    elif not found:
        attention_modules(model)  # says what is missing
    by_module = {module.module if isinstance(module, Foreign) else module: address for address, module in found.items()}

    def look(module: Any, call: Call, head_outputs: Tensor, lse: Tensor) -> None:
        if module in by_module:
            wish.add(record, by_module[module], Recorded(_detached(call), head_outputs.detach(), lse.detach()))

    if emission.observer is not None:
        raise RuntimeError("another hw.observe is on: leave it first")
    emission.observer = torch.compiler.disable(look)  # compiled code breaks its graph there, or raises if it must not
    try:
        with transformers.adapted(model), eager.watched(model, lambda *seen: wish.add(record, *seen)):
            yield record
    finally:
        emission.observer = None


def attention_modules(model: nn.Module) -> dict[str, MultiHeadAttention | Foreign]:
    """Every attention module of a model whose heads can be operated on, by its address, its name in ``named_modules()`` (of the
    model that was compiled). Raises ValueError where there is none."""
    model = uncompiled(model)
    found = _operable(model)
    if not found:
        kinds = {type(module).__name__ for module in eager.attention_modules(model).values()}
        why = f": {', '.join(sorted(kinds))} write it out in their own code, and can be observed alone" if kinds else ""
        if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
            why = ": hw.replace_attention(model) first, for its torch.nn.MultiheadAttention"
        raise ValueError(f"{type(model).__name__} has no hw.MultiHeadAttention and asks for no attention function{why}")
    return found


@cache  # once for every class, not for every batch
def warn_of(kind: type[nn.Module]) -> None:
    log.warning("%s writes attention out in its own code: of it the weights are recorded that it returns", kind.__name__)


def _operable(model: nn.Module) -> dict[str, MultiHeadAttention | Foreign]:
    return {**attentions(model), **transformers.attention_modules(model)}


def _detached(call: Call) -> Call:
    """A call as it is now: what learns or is written in place changes after it."""
    tensors = {field.name: getattr(call, field.name) for field in fields(call)}
    kept = {name: _kept(x, call.positions is not None) for name, x in tensors.items() if isinstance(x, Tensor)}
    bias = call.bias
    if isinstance(bias, Added):
        bias = replace(bias, tensor=_kept(bias.tensor, False))
    elif isinstance(bias, nn.Module):
        bias = deepcopy(bias, {id(weight): weight.detach().clone() for weight in bias.parameters()})
    return replace(call, **kept, bias=bias)


def _kept(x: Tensor, in_place: bool) -> Tensor:
    return x.detach().clone() if in_place or isinstance(x, nn.Parameter) else x.detach()
