"""Models of transformers whose attention is written out in their own code, so that no function can be put in its place
(ImageGPT, SpeechT5, FastSpeech2Conformer, TimeSformer, BLIP, VisualBERT, LXMERT, ... in transformers 5): what is recorded of
them is the weights that they return themselves."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attention.formula import Call
from headwise.attention.positions import Added
from headwise.attention.record import Recorded
from headwise.attention.tiles import Tile
from headwise.insight.observing import transformers

WISH = "output_attentions"


@dataclass(frozen=True, eq=False)
class Given(Added):
    """Of the weights p that a model formed, held as they are, log p: the weights of these scores are p again."""

    def added(self, tile: Tile, query: Tensor, key: Tensor, scale: float) -> Tensor:
        return super().added(tile, query, key, scale).log()


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules of transformers that form weights themselves, by their names in ``named_modules()``: those that return them when
    asked, and have none inside that does, and those that always do, which their models list."""
    if "transformers" not in sys.modules:
        return {}
    listed = tuple({kind for module in model.modules() for kind in _listed(module)})

    def returns_weights(module: nn.Module) -> bool:
        return isinstance(module, listed) or _takes_wish(type(module))

    def innermost(module: nn.Module) -> bool:
        parts = [part for part in module.modules() if part is not module]
        return not any(returns_weights(part) or transformers.asks_for_function(part) for part in parts)

    candidates = {name: module for name, module in model.named_modules() if returns_weights(module)}
    return {
        name: module for name, module in candidates.items() if innermost(module) and not transformers.asks_for_function(module)
    }


@contextmanager
def watched(model: nn.Module, keep: Callable[[str, Recorded], None]) -> Iterator[None]:
    """Inside, ``keep`` gets the address and the weights of every call of them; models return their weights besides."""
    found = attention_modules(model)
    with ExitStack() as hooks:
        for module in model.modules() if found else ():
            if _takes_wish(type(module)):
                hooks.callback(module.register_forward_pre_hook(_wish, with_kwargs=True).remove)
        for address, module in found.items():
            hooks.callback(module.register_forward_hook(_keeper(address, keep), with_kwargs=True).remove)
        yield


def _keeper(address: str, keep: Callable[[str, Recorded], None]) -> Callable[..., None]:
    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        crosses = transformers.crosses(transformers.arguments(module, args, kwargs))
        for weights in output if isinstance(output, tuple) else ():
            if isinstance(weights, Tensor) and weights.dim() == 4:
                return keep(address, _recorded(weights.detach(), not crosses))

    return look


def _recorded(weights: Tensor, same_sequence: bool) -> Recorded:
    """Weights (batch, heads, query_len, key_len) as a call: query, key, value and the heads' outputs have no channels."""
    *heads, query_len, key_len = weights.shape
    queries, keys = (weights.new_zeros(*heads, length, 0) for length in (query_len, key_len))
    call = Call(queries, keys, keys, None, Given(weights), 1.0, None, None, same_sequence=same_sequence)
    wide = weights.to(torch.promote_types(weights.dtype, torch.float32))
    return Recorded(call, weights.new_zeros(*heads, query_len, 0), wide.sum(-1).log())


def _wish(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before a call: the same, with the weights returned."""
    given = inspect.signature(type(module).forward).bind_partial(module, *args, **kwargs)
    if WISH in given.arguments and WISH not in kwargs:  # by its place
        given.arguments[WISH] = True
        return given.args[1:], given.kwargs
    return args, kwargs | {WISH: True}


def _listed(module: nn.Module) -> Iterator[type[nn.Module]]:
    """The classes whose calls return weights, as a model of theirs says."""
    for name, listed in (getattr(module, "_can_record_outputs", None) or {}).items():
        for entry in listed if isinstance(listed, list) else [listed]:
            if "attentions" in name:
                yield getattr(entry, "target_class", entry)


@cache  # a model has few classes and many modules
def _takes_wish(kind: type[nn.Module]) -> bool:
    return WISH in inspect.signature(kind.forward).parameters
