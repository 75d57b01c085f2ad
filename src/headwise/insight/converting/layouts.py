"""How libraries lay out the weights of one attention layer.

(out, in) means y = W x, with the rows of one head after those of the other. H query heads, G key-value heads, widths d and v.

    torch            in_proj_weight (3 embed, embed) = q | k | v, or, where inputs differ in width, q_proj_weight, k_proj_weight
                     and v_proj_weight; in_proj_bias; out_proj. G = H, d = v = embed / H
    transformers     q_proj, k_proj, v_proj and out_proj, or other names; GPT-2's c_attn = q | k | v and c_proj, both (in, out);
                     Phi-3's qkv_proj = q | k | v; query_key_value of GPT-NeoX, BLOOM and Falcon = for each key head the query
                     heads that share it, then its key, then its value
    flash-attn       Wqkv = q | k | v, or Wq and Wkv = k | v, where inputs differ in width; out_proj. d = v
    keras            query/kernel (embed, H, d), query/bias (H, d), key/..., value/..., attention_output/kernel (H, v, embed) of
                     MultiHeadAttention, and of GroupQueryAttention, which has G heads in key and value
    flax             as keras, but out/kernel; of linen's and nnx's MultiHeadAttention. d = v
    x-transformers   to_q, to_k, to_v, to_out, without biases. Query head h uses key head h % G there and h // (H / G) here, so
                     that query heads are put into another order
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headwise.attention.module import PROJECTIONS, MultiHeadAttention
from headwise.models.checkpoint.keys import Stored

State = dict[str, Tensor]
Layout = Mapping[str, Stored]  # the library's tensor -> ours, one or several side by side

HELD = {  # which of ours a layer's modules hold, by how many modules it has
    4: (("q_proj",), ("k_proj",), ("v_proj",), ("out_proj",)),
    3: (("q_proj",), ("k_proj", "v_proj"), ("out_proj",)),
    2: (("q_proj", "k_proj", "v_proj"), ("out_proj",)),
}


@dataclass(frozen=True)
class Library:
    """layouts: those that a layer may have, the one preferred in writing first. arrive(state, num_heads), leave(state,
    attention): what is done to a library's tensors before and after its layout is read and written. num_heads(state): H, where
    the shapes say it. biases: each projection may have one ("each"), all or none ("all"), or none. grouped: G may differ from
    H. widths: v may differ from d. settings: it has rotary positions, scales and the like."""

    layouts: tuple[Layout, ...]
    arrive: Callable[[State, int], State] = lambda state, num_heads: state
    leave: Callable[[State, MultiHeadAttention], State] = lambda state, attention: state
    num_heads: Callable[[State], int | None] = lambda state: None
    biases: str = "each"
    grouped: bool = True
    widths: bool = True
    settings: bool = True


def of_modules(*names: str) -> Layout:
    """The tensors of modules of these names: those of q, k, v and out, of q, k | v and out, or of q | k | v and out."""
    if len(names) not in HELD:
        raise ValueError(f"names: expected those of q, k, v and out, or of q | k | v and out; got {names}")
    transposed = names[0].endswith("c_attn")
    return {
        f"{name}.{leaf}": Stored(tuple(f"{part}.{leaf}" for part in parts), transposed)
        for name, parts in zip(names, HELD[len(names)], strict=True)
        for leaf in ("weight", "bias")
    }


def counts(query_rows: int, key_rows: int, num_heads: int) -> tuple[int, int]:
    """The width of a head and the number of key heads."""
    head_dim = query_rows // num_heads
    num_kv_heads = key_rows // head_dim if head_dim else 0
    if (
        query_rows != num_heads * head_dim
        or key_rows != num_kv_heads * head_dim
        or not num_kv_heads
        or num_heads % num_kv_heads
    ):
        raise ValueError(f"num_heads = {num_heads} does not fit {query_rows} rows for queries and {key_rows} for keys")
    return head_dim, num_kv_heads


def _from_key_heads(state: State, num_heads: int) -> State:
    """query_key_value, where it is, as q | k | v."""
    if not {"query_key_value.weight", "dense.weight"} <= set(state):
        return state
    inner = state["dense.weight"].shape[-1]
    for name in {"query_key_value.weight", "query_key_value.bias"} & set(state):
        head_dim, groups = counts(inner, (len(state[name]) - inner) // 2, num_heads)
        shared = state[name].unflatten(0, (groups, num_heads // groups + 2, head_dim))
        state[name] = torch.cat([part.flatten(0, 2) for part in shared.split((num_heads // groups, 1, 1), dim=1)])
    return state


def _to_key_heads(state: State, attention: MultiHeadAttention) -> State:
    groups, head_dim = attention.num_kv_heads, attention.head_dim
    for name in {"query_key_value.weight", "query_key_value.bias"} & set(state):
        heads = state[name].unflatten(0, (-1, head_dim)).split((attention.num_heads, groups, groups))
        state[name] = torch.cat([part.unflatten(0, (groups, -1)) for part in heads], dim=1).flatten(0, 2)
    return state


def _reordered(state: State, outer: int, inner: int) -> State:
    """Query head i * inner + j becomes query head j * outer + i, in rows of to_q and columns of to_out."""
    query, out = (state[name].unflatten(at, (outer, inner, -1)) for at, name in enumerate(("to_q.weight", "to_out.weight")))
    return state | {"to_q.weight": query.transpose(0, 1).flatten(0, 2), "to_out.weight": out.transpose(1, 2).flatten(1)}


def _from_modulo(state: State, num_heads: int) -> State:
    if not {"to_q.weight", "to_k.weight", "to_out.weight"} <= set(state):
        return state
    _, groups = counts(len(state["to_q.weight"]), len(state["to_k.weight"]), num_heads)
    return _reordered(state, num_heads // groups, groups)


def _to_modulo(state: State, attention: MultiHeadAttention) -> State:
    return _reordered(state, attention.num_kv_heads, attention.num_heads // attention.num_kv_heads)


def _from_kernels(state: State, num_heads: int) -> State:
    """Kernels, (embed, heads, width) and (heads, width, embed), as weights (out, in)."""
    arrived = {}
    for name, x in state.items():
        module, _, leaf = name.rpartition("/")
        if leaf == "kernel":
            if x.dim() != 3:
                raise ValueError(
                    f"{name}: expected (embed, heads, width), or (heads, width, embed) of the output; got {tuple(x.shape)}"
                )
            into_heads = module in ("query", "key", "value")
            arrived[f"{module}.weight"] = (x.flatten(1) if into_heads else x.flatten(0, 1)).mT
        else:
            arrived[f"{module}.{leaf}"] = x.flatten()
    return arrived


def _to_kernels(state: State, attention: MultiHeadAttention) -> State:
    left = {}
    for name, x in state.items():
        module, _, leaf = name.rpartition(".")
        into_heads = module in ("query", "key", "value")
        width = attention.head_dim if module in ("query", "key") else attention.value_dim
        if leaf == "weight":
            x = x.mT.unflatten(1 if into_heads else 0, (-1, width))
        elif into_heads:
            x = x.unflatten(0, (-1, width))
        left[f"{module}/{'kernel' if leaf == 'weight' else leaf}"] = x.contiguous()
    return left


def _heads_of_kernel(state: State) -> int | None:
    return state["query/kernel"].shape[1] if "query/kernel" in state else None


_TORCH = {
    "in_proj_bias": Stored(tuple(f"{name}.bias" for name in PROJECTIONS[:3])),
    "out_proj.weight": Stored(("out_proj.weight",)),
    "out_proj.bias": Stored(("out_proj.bias",)),
}
_KERAS = Library(
    (of_modules("query", "key", "value", "attention_output"),),
    _from_kernels,
    _to_kernels,
    _heads_of_kernel,
    biases="all",
    settings=False,
)
LIBRARIES = {
    "torch": Library(
        (
            {"in_proj_weight": Stored(tuple(f"{name}.weight" for name in PROJECTIONS[:3])), **_TORCH},
            {**{f"{name}_weight": Stored((f"{name}.weight",)) for name in PROJECTIONS[:3]}, **_TORCH},
        ),
        biases="all",
        grouped=False,
        widths=False,
        settings=False,
    ),
    "transformers": Library(
        (
            of_modules("q_proj", "k_proj", "v_proj", "out_proj"),  # BART, OPT, CLIP, Whisper, Wav2Vec2
            of_modules("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama, Mistral, Qwen, Gemma, ViT
            of_modules("q_proj", "k_proj", "v_proj", "dense"),  # Phi
            of_modules("self.query", "self.key", "self.value", "output.dense"),  # BERT, RoBERTa
            of_modules("q_lin", "k_lin", "v_lin", "out_lin"),  # DistilBERT
            of_modules("q", "k", "v", "o"),  # T5
            of_modules("c_attn", "c_proj"),  # GPT-2
            of_modules("qkv_proj", "o_proj"),  # Phi-3
            of_modules("query_key_value", "dense"),  # GPT-NeoX, BLOOM, Falcon
        ),
        _from_key_heads,
        _to_key_heads,
    ),
    "flash-attn": Library((of_modules("Wqkv", "out_proj"), of_modules("Wq", "Wkv", "out_proj")), widths=False),
    "keras": _KERAS,
    "flax": replace(_KERAS, layouts=(of_modules("query", "key", "value", "out"),), widths=False),
    "x-transformers": Library((of_modules("to_q", "to_k", "to_v", "to_out"),), _from_modulo, _to_modulo, biases="none"),
}
