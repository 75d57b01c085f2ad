"""Taking heads out of a model for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from headwise.attention.heads import key_heads_of, take_heads
from headwise.attention.module import MultiHeadAttention
from headwise.models.checkpoint.heads import attentions, settle, uncompiled


def prune(model: nn.Module, heads: Mapping[str, Iterable[int]]) -> nn.Module:
    """Removes heads, changes the model and returns it: its outputs are those with ``hw.gates`` of 0 on these heads.

    heads: for each address (as in ``observe``) the heads to remove, counted as they are now. Rows of the query, key and value
    projections go, columns of the output projection, biases, sinks, and what a rule of positions holds for each head; a T5
    table, which layers share, stays whole. hw.compat.MultiheadAttention, which hw.replace_attention puts into models of torch,
    is cut, too. Where query heads share a key-value head, whole groups go, or equally many heads of each group that stays. The
    parameters are new ones: make an optimizer afterwards.

    ``hw.save`` and ``hw.load`` keep it, if it is one of ours. The published formats know one number of heads for all layers,
    and most a width of heads that follows from it: such a folder holds an entry "headwise" in its config.json, and the library
    that the format comes from will not read it. A Llama pruned alike in every layer needs none.

    Raises KeyError for an unknown address, and ValueError, before anything is changed, for heads that are not there, for all
    heads of a module (something must attend), for unequal groups, and for projections that are not nn.Linear.
    """
    inner = uncompiled(model)
    modules, kept = cuttable(inner), {}
    for address, removed in heads.items():
        if address not in modules:
            raise KeyError(f"no attention at {address!r}; there is {', '.join(map(repr, modules))}")
        module, removed = modules[address], set(removed)
        if wrong := sorted(removed - {*range(module.num_heads)}, key=repr):
            raise ValueError(f"{address!r} has heads 0 to {module.num_heads - 1}; got {wrong}")
        if len(removed) == module.num_heads:
            raise ValueError(f"{address!r}: at least one of its {module.num_heads} heads must stay")
        query_heads = [head for head in range(module.num_heads) if head not in removed]
        try:
            kept[address] = query_heads, key_heads_of(module, query_heads)
        except ValueError as error:
            raise ValueError(f"{address!r}: {error}") from None
    for address, (query_heads, kv_heads) in kept.items():
        take_heads(modules[address], query_heads, kv_heads)
    settle(inner)
    return model


def cuttable(model: nn.Module) -> dict[str, MultiHeadAttention]:
    """The modules whose weights we can cut, by address."""
    found = attentions(model)
    if not found:
        raise ValueError(
            f"{type(model).__name__} cannot be cut: it has no hw.MultiHeadAttention (headwise models lists what hw.load "
            "reads); its heads can be silenced with hw.gates"
        )
    return found
