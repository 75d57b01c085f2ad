"""Heads that were pruned or grouped: what a published config.json cannot say of them, and headwise's own entry there can.

    "headwise": {"heads": {"encoder.layers.0.self_attention": {"kept": [0, 2, 3], "num_kv_heads": 3}}}

kept: of the heads that config.json speaks of, those that are there; num_kv_heads: how many key-value heads there are.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from headwise.attention.heads import take_heads
from headwise.attention.module import MultiHeadAttention
from headwise.models.checkpoint.config import Config

OWN = "headwise"  # the entry's name


def uncompiled(model: nn.Module) -> nn.Module:
    """The model that torch.compile has wrapped, whose modules have the names that it gave them; any other as it is."""
    return getattr(model, "_orig_mod", model)


def attentions(model: nn.Module) -> dict[str, MultiHeadAttention]:
    """The attention modules of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MultiHeadAttention)}


def settle(model: nn.Module) -> None:
    """After a change: the model's own settings say how many heads there are, if they can."""
    modules = list(attentions(model).values())
    counts, config = {(module.num_heads, module.num_kv_heads) for module in modules}, getattr(model, "config", None)
    said = config.with_heads(*counts.pop()) if isinstance(config, Config) and len(counts) == 1 else None
    if said is not None:
        model.config = said  # type: ignore[assignment]
        for module in modules:
            module.heads = range(module.num_heads)


def own_entry(model: nn.Module, built: nn.Module) -> dict[str, Any] | None:
    """Our entry, for a model that has other heads than its settings build; None where they say it all."""
    ours, theirs = attentions(model), attentions(built)
    changed = {
        address: {"kept": list(module.heads), "num_kv_heads": module.num_kv_heads}
        for address, module in ours.items()
        if address in theirs and _heads(module) != _heads(theirs[address])
    }
    return {"heads": changed} if changed else None


def arrange(model: nn.Module, entry: Any) -> None:
    """Gives a model as its settings build it the heads of our entry, where there is one. Raises ValueError for a wrong one."""
    if entry is None:
        return
    heads = entry.get("heads", {}) if isinstance(entry, dict) else None
    if not isinstance(heads, dict) or entry.keys() - {"heads"}:
        raise ValueError(f'{OWN}: expected an object with "heads"; got {entry!r}')
    modules = attentions(model)
    for address, said in heads.items():
        if address not in modules:
            raise ValueError(f"{OWN}: no attention at {address!r}; there is {', '.join(map(repr, modules))}")
        take_heads(modules[address], *_counted(address, said, modules[address]))


def _heads(module: MultiHeadAttention) -> tuple[tuple[int, ...], int]:
    return tuple(module.heads), module.num_kv_heads


def _counted(address: str, said: Any, module: MultiHeadAttention) -> tuple[list[int], list[int]]:
    """Query heads and key-value heads to keep. Which the latter are does not matter: their weights are read from the file."""
    said = said if isinstance(said, dict) and said.keys() == {"kept", "num_kv_heads"} else {"kept": None, "num_kv_heads": None}
    kept, kv_heads = said["kept"], said["num_kv_heads"]
    in_order = isinstance(kept, list) and all(type(head) is int for head in kept) and sorted({*kept}) == kept
    sound = in_order and kept and kept[0] >= 0 and kept[-1] < module.num_heads and type(kv_heads) is int
    if not sound or not 1 <= kv_heads <= module.num_kv_heads or len(kept) % kv_heads:
        raise ValueError(
            f'{OWN}: {address!r}: expected "kept", some of {module.num_heads} heads in order, and "num_kv_heads", at most '
            f"{module.num_kv_heads}, which divides them; got {kept!r} and {kv_heads!r}"
        )
    return kept, list(range(kv_heads))
