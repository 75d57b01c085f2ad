"""The weights of one attention layer between libraries, both ways.

    attention = hw.weights.read(layer, "flash-attn")
    state = hw.weights.write(attention, "keras")

What each library's tensors look like: python -m pydoc headwise.insight.converting.layouts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headwise.attention.module import PROJECTIONS, MultiHeadAttention, Scores
from headwise.attention.positions import Bias, Rotary
from headwise.insight.converting.compat import MultiheadAttention
from headwise.insight.converting.layouts import LIBRARIES, Layout, Library, State, counts, of_modules

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")  # what layers call the number of query heads
BESIDE = "output.LayerNorm."  # BERT's attention holds the norm that follows it


def read(
    layer: nn.Module | Mapping[str, Any],
    library: str,
    *,
    num_heads: int | None = None,
    names: tuple[str, ...] | None = None,
    prefix: str = "",
    position: Rotary | Bias | None = None,
    scores: Scores | None = None,
    dropout: float = 0.0,
) -> MultiHeadAttention:
    """An attention with the weights of a layer of "torch", "transformers", "flash-attn", "keras", "flax" or "x-transformers".

    layer: the layer itself, if it is a module of torch, or else its tensors or arrays by name; nested names are joined by "/".
    prefix: takes the names that begin so, as out of a whole model's state. num_heads: of queries; needed where neither the
    layer nor a shape says it. names: modules of "transformers" that are called unusually, those of q, k, v and out, or of
    q | k | v and out. position, scores, dropout: as of hw.MultiHeadAttention; weights do not say them.

    Weights are copied; dtype and device stay. Raises ValueError where tensors are missing or left over (norms of queries and
    keys, learned keys), where shapes do not fit, or nothing says the number of heads.
    """
    known = _library(library, names)
    if getattr(layer, "add_zero_attn", False):
        raise ValueError("add_zero_attn: hw.MultiHeadAttention has no key of zeros; hw.replace_attention keeps it")
    state = _state(layer, prefix)
    said = known.num_heads(state)
    num_heads = num_heads or said or _num_heads(layer)
    if num_heads is None or num_heads != (said or num_heads):
        raise ValueError(f"num_heads: expected the number of query heads, {said or 'which nothing here says'}; got {num_heads}")
    return _attention(_ours(known.arrive(state, num_heads), known.layouts), num_heads, position, scores, dropout)


def write(attention: MultiHeadAttention, library: str, *, names: tuple[str, ...] | None = None) -> State:
    """The weights of an attention by the names and in the shapes of another library, copied.

    names: the modules of "transformers", four as in ("q_proj", "k_proj", "v_proj", "o_proj") or two as in ("c_attn", "c_proj").
    Where the library wants a bias that the attention lacks, it is zero. Positions without weights, scale and softcap are
    settings, which the layer over there must be given.

    Raises ValueError for what the library cannot hold, as torch cannot hold grouped heads.
    """
    known = _library(library, names)
    if isinstance(attention, MultiheadAttention):
        attention = read(attention, "torch")
    _refuse(attention, library, known)
    tensors = {
        f"{name}.{leaf}": getattr(attention.get_submodule(name), leaf) for name in PROJECTIONS for leaf in ("weight", "bias")
    }
    ours = {name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}
    layout = next((layout for layout in known.layouts if _fits(layout, ours, attention)), None)
    if layout is None:
        raise ValueError(f"{library}: what is fused has one width of inputs and of heads; got {attention.extra_repr()}")
    if known.biases == "all" and any(name.endswith(".bias") for name in ours):
        ours = _with_biases(ours, tuple(f"{name}.bias" for name in PROJECTIONS))
    written = {}
    for published, stored in layout.items():
        if any(name in ours for name in stored.ours):
            whole = _with_biases(ours, stored.ours)
            tensor = stored.write([whole[name] for name in stored.ours])
            written[published] = tensor.clone(memory_format=torch.contiguous_format)
    return known.leave(written, attention)


def _library(library: str, names: tuple[str, ...] | None) -> Library:
    if library not in LIBRARIES:
        raise ValueError(f"library: expected one of {', '.join(map(repr, LIBRARIES))}; got {library!r}")
    if names is None:
        return LIBRARIES[library]
    if library != "transformers":
        raise ValueError(f"names: {library} has its own; other ones are for 'transformers'")
    return replace(LIBRARIES[library], layouts=(of_modules(*names),))


def _state(layer: nn.Module | Mapping[str, Any], prefix: str) -> State:
    """A layer's tensors by name."""
    named = layer.state_dict() if isinstance(layer, nn.Module) else dict(_flat(layer))
    chosen = {name.removeprefix(prefix): x for name, x in named.items() if name.startswith(prefix)}
    return {name: x.detach() if isinstance(x, Tensor) else torch.tensor(np.asarray(x)) for name, x in chosen.items()}


def _flat(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, inner in nested.items():
        if isinstance(inner, Mapping):
            yield from ((f"{name}/{rest}", x) for rest, x in _flat(inner))
        else:
            yield name, inner


def _num_heads(layer: object) -> int | None:
    """The number of query heads that a module says, or a part of it, or its configuration."""
    for module in layer.modules() if isinstance(layer, nn.Module) else ():
        for holder in (module, getattr(module, "config", None)):
            for name in HEADS:
                if isinstance(getattr(holder, name, None), int):
                    return getattr(holder, name)
    return None


def _ours(state: State, layouts: tuple[Layout, ...]) -> State:
    """A library's tensors as ours, those of the first layout that is there whole."""
    needed = [[name for name, stored in layout.items() if stored.ours[0].endswith("weight")] for layout in layouts]
    found = next((layout for layout, names in zip(layouts, needed, strict=True) if set(names) <= set(state)), None)
    if found is None:
        wanted = "; or ".join(", ".join(names) for names in needed)
        raise ValueError(f"expected the tensors {wanted}; got {', '.join(state) or 'none'}")
    left = [name for name in state if name not in found and not name.startswith(BESIDE)]
    if left:
        raise ValueError(f"expected the weights and biases of four projections alone; there is {', '.join(left)}, too")
    ours: State = {}
    for published, stored in sorted(found.items(), key=lambda row: len(row[1].ours)):  # fused ones need to know the output's
        if published in state:
            rows = _rows(published, state[published].shape[-1 if stored.transposed else 0], stored.ours, ours)
            ours |= zip(stored.ours, stored.read(state[published], rows), strict=True)
    for name in PROJECTIONS:
        weight, bias = ours[f"{name}.weight"], ours.get(f"{name}.bias")
        if weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            shapes = {name: tuple(x.shape) for name, x in state.items()}
            raise ValueError(f"expected weights (out, in) and biases (out,); got {shapes}")
    return ours


def _rows(published: str, total: int, held: tuple[str, ...], ours: State) -> list[int]:
    """How many rows of a tensor belong to each of ours that it holds."""
    if len(held) == 1:
        return [total]
    queries = [ours["out_proj.weight"].shape[1]] if len(held) == 3 else []  # heads as wide as those that the output reads
    rows = [*queries, *2 * [(total - sum(queries)) // 2]]
    if sum(rows) != total or min(rows) < 1:
        raise ValueError(f"{published}: its {total} rows are not those of {', '.join(held)}, {rows}")
    return rows


def _attention(
    ours: State, num_heads: int, position: Rotary | Bias | None, scores: Scores | None, dropout: float
) -> MultiHeadAttention:
    query, key, value, out = (ours[f"{name}.weight"] for name in PROJECTIONS)
    head_dim, num_kv_heads = counts(len(query), len(key), num_heads)
    value_dim = len(value) // num_kv_heads
    if len(value) != num_kv_heads * value_dim or out.shape != (query.shape[1], num_heads * value_dim):
        raise ValueError(
            f"{num_heads} query heads and {num_kv_heads} key heads: expected values of as many heads and an output of shape "
            f"{(query.shape[1], num_heads * value_dim)}; got {tuple(value.shape)} and {tuple(out.shape)}"
        )
    if len({(x.dtype, x.device) for x in ours.values()}) != 1:
        raise ValueError(f"expected one dtype and device; got { {name: (x.dtype, x.device) for name, x in ours.items()} }")
    attention = MultiHeadAttention(
        query.shape[1],
        num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=(head_dim, value_dim),
        kdim=key.shape[1],
        vdim=value.shape[1],
        bias=[name for name in PROJECTIONS if f"{name}.bias" in ours],
        position=position,
        scores=scores,
        dropout=dropout,
        device=query.device,
        dtype=query.dtype,
    )
    attention.load_state_dict(attention.state_dict() | ours)
    return attention


def _refuse(attention: MultiHeadAttention, library: str, known: Library) -> None:
    """Raises ValueError where the library has no place for something of the attention."""
    equal_heads = attention.num_heads == attention.num_kv_heads
    one_width = attention.head_dim == attention.value_dim
    exact = attention.num_heads * attention.head_dim == attention.embed_dim
    more = sorted(set(attention.state_dict()) - {f"{name}.{leaf}" for name in PROJECTIONS for leaf in ("weight", "bias")})
    biases = [name for name in PROJECTIONS if attention.get_submodule(name).bias is not None]
    for what, held in (
        (f"parameters beside the projections ({', '.join(more)})", not more),
        ("grouped heads", known.grouped or equal_heads),
        ("values of another width than keys", known.widths or one_width),
        ("heads that are not embed_dim // num_heads wide", library != "torch" or exact),
        (f"biases ({', '.join(biases)})", known.biases != "none" or not biases),
        ("positions, a scale or a softcap", known.settings or (attention.position is None and attention.scores == Scores())),
    ):
        if not held:
            raise ValueError(f"{library} cannot hold {what}; got {attention.extra_repr()}")


def _fits(layout: Layout, ours: State, attention: MultiHeadAttention) -> bool:
    """Whether what a layout puts side by side reads inputs of one width, and has heads of one width."""
    held = [stored.ours for stored in layout.values() if len(stored.ours) > 1 and stored.ours[0].endswith("weight")]
    widths = [{ours[name].shape[1] for name in names} for names in held]
    return all(len(width) == 1 for width in widths) and (not held or attention.head_dim == attention.value_dim)


def _with_biases(ours: State, names: tuple[str, ...]) -> State:
    """Ours, with zeros for those of these biases that are not there."""
    missing = [name for name in names if name not in ours]
    return ours | {name: torch.zeros_like(ours[name.replace(".bias", ".weight")][:, 0]) for name in missing}
