"""torch.nn.MultiheadAttention as headwise computes it: its arguments, parameters and returns, and none of its surprises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from headwise.attention import formula, masks
from headwise.attention.formula import Call
from headwise.attention.heads import INPUTS, part_of, take_rows
from headwise.attention.masks import Dense, Mask
from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import Added, Bias


class Rows(nn.Linear):
    """One of the projections of query, key and value: a layer to call, to hook and to wrap, whose weight and bias are rows of
    the parameters of an attention, so that these keep torch's names and stay the ones an optimizer holds."""

    def __init__(self, attention: MultiheadAttention, index: int, in_features: int) -> None:
        nn.Module.__init__(self)  # nn.Linear would make parameters
        self.attention = (attention,)  # in a tuple: as an attribute it would become a part of its own part
        self.index, self.in_features, self.out_features = index, in_features, attention.embed_dim

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        attention = self.attention[0]
        if attention.in_proj_weight is not None:
            return attention.in_proj_weight.chunk(3)[self.index]
        return (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)[self.index]  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        fused = self.attention[0].in_proj_bias
        return None if fused is None else fused.chunk(3)[self.index]


class MultiheadAttention(MultiHeadAttention):
    """Multi-head attention with the constructor, parameters, arguments and returns of torch.nn.MultiheadAttention (2.13).

    State dicts of either load into the other, and the same seed gives the same weights. It is an hw.MultiHeadAttention:
    hw.observe, hw.statistics, hw.gates, hw.importance and hw.prune find it at its address. Pruned, its parameters have fewer
    rows; a fresh one must lose as many heads before it loads them.

    What is different, on purpose. A query that may attend to nothing gets zero from every head, so that its output is the bias
    of ``out_proj``, and gradients stay finite (torch: nan). ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj`` are layers that
    are called: hooks and adapters on them work. Returned weights are those before dropout. Scores and their softmax are
    computed in at least float32. A nested tensor is refused. A wrong call raises ValueError.

    add_bias_kv: a learned key and value (``bias_k``, ``bias_v``) join every sequence at its end; add_zero_attn: so do a key and
    a value of zeros. Every query may attend to both. batch_first: inputs are (batch, length, width), not (length, batch,
    width).
    """

    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter | None
    k_proj_weight: nn.Parameter | None
    v_proj_weight: nn.Parameter | None
    in_proj_bias: nn.Parameter | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    # What torch's encoder layer asks before it computes attention by itself, past our rows, hooks and observers.
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(embed_dim, num_heads, kdim=kdim, vdim=vdim, bias=bias, dropout=dropout, device="meta")
        self.add_zero_attn, self.batch_first = add_zero_attn, batch_first
        fused = self.kdim == self.vdim == embed_dim
        shapes = {
            "in_proj_weight": (3 * embed_dim, embed_dim) if fused else None,
            "q_proj_weight": None if fused else (embed_dim, embed_dim),
            "k_proj_weight": None if fused else (embed_dim, self.kdim),
            "v_proj_weight": None if fused else (embed_dim, self.vdim),
            "in_proj_bias": (3 * embed_dim,) if bias else None,
            "bias_k": (1, 1, embed_dim) if add_bias_kv else None,
            "bias_v": (1, 1, embed_dim) if add_bias_kv else None,
        }
        for name, shape in shapes.items():
            empty = None if shape is None else nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, empty)
        for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
            self.add_module(name, Rows(self, index, self.get_submodule(name).in_features))  # type: ignore[arg-type]
        self.out_proj = self.out_proj.to(dtype).to_empty(device=device or torch.get_default_device())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch's begins: weights uniform after Glorot and Bengio 2010 (the three fused ones as one matrix), bias_k and
        bias_v normal, out_proj as nn.Linear begins, all other biases zero."""
        if self.out_proj.weight.is_meta:  # as it is while the base class makes its parts
            return
        self.out_proj.reset_parameters()
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                nn.init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                nn.init.xavier_normal_(extra)

    def forward(  # type: ignore[override]
        self,
        query: Float[Tensor, "*inputs embed_dim"],
        key: Float[Tensor, "*keys kdim"],
        value: Float[Tensor, "*keys vdim"],
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Float[Tensor, "*inputs embed_dim"], Tensor | None]:
        """Output and weights (None without need_weights); nothing (query_len, key_len) is built without need_weights.

        query: (query_len, batch, embed_dim), or (batch, query_len, embed_dim) if batch_first, or (query_len, embed_dim); key
        and value likewise. Attention within one sequence is what is given the same tensor as query and key.
        key_padding_mask: (batch, key_len); attn_mask: (query_len, key_len) or (batch * num_heads, query_len, key_len). True =
        may NOT attend; a float one is added to the scores. is_causal: attn_mask is the causal one, which may then be left out
        if there are as many queries as keys.
        Weights: (batch, query_len, key_len), the mean over heads, or (batch, num_heads, query_len, key_len) if not
        average_attn_weights. The keys of add_bias_kv and add_zero_attn have a column there, too.
        """
        same_sequence = key is query
        length_first = query.dim() == 3 and not self.batch_first
        if query.is_nested or not query.dim() == key.dim() == value.dim() or query.dim() not in (2, 3):
            raise ValueError(
                "expected query, key and value of 3 dimensions, or 2 without a batch, and none of them nested (a torch encoder "
                f"that nests them goes into hw.replace_attention as a whole); got {query.dim()}, {key.dim()} and {value.dim()}"
            )
        if length_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        mask, bias = self.rules(query, key, key_padding_mask, attn_mask, is_causal)
        call = self.with_extra_keys(replace(self.split(query, None if same_sequence else key, value, mask), bias=bias))
        output = self.out_proj(self.concatenate(self.attend(call)))
        output = output.transpose(0, 1) if length_first else output
        if not need_weights:
            return output, None
        weights = formula.weights(call, call.tile()).to(call.query.dtype)
        return output, weights.mean(-3) if average_attn_weights else weights

    def rules(
        self, query: Tensor, key: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None, is_causal: bool
    ) -> tuple[Mask | None, Bias | None]:
        """torch's masks as who may attend and what is added, the keys included that join at the end. Inputs batch first."""
        self._check(query, key, key_padding_mask, attn_mask)
        extra = (self.bias_k is not None) + self.add_zero_attn
        if extra:  # padding by nothing would copy
            key_padding_mask, attn_mask = (x if x is None else pad(x, (0, extra)) for x in (key_padding_mask, attn_mask))
        rules, added = [], []
        if is_causal and not extra and query.shape[-2] == key.shape[-2]:
            rules.append(masks.causal())
        elif attn_mask is not None:
            if attn_mask.dim() == query.dim() == 3:
                attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
            if attn_mask.dtype == torch.bool:
                rules.append(Dense(~attn_mask))
            else:
                added.append(attn_mask)
        elif is_causal:
            raise ValueError("is_causal: expected an attn_mask, or as many queries as keys and no keys that join them")
        if key_padding_mask is not None:
            if key_padding_mask.dtype == torch.bool:
                rules.append(masks.padding(~key_padding_mask))
            else:  # torch's own encoder makes -inf out of its True: those keys are padding, as observers want to know
                rules.append(masks.padding(key_padding_mask > -torch.inf))
                added.append(key_padding_mask[..., None, None, :])
        mask = None if not rules else rules[0] if len(rules) == 1 else rules[0] & rules[1]
        return mask, Added(added[0] if len(added) == 1 else added[0] + added[1]) if added else None

    def with_extra_keys(self, call: Call) -> Call:
        """The call with the learned key and value and those of zeros, which stand nowhere in the sequence."""
        key, value = ([x] for x in (call.key, call.value))
        for heads, learned in ((key, self.bias_k), (value, self.bias_v)):
            if learned is not None:
                heads.append(self._heads(learned[0], self.head_dim).to(heads[0]).expand_as(heads[0][..., :1, :]))
            if self.add_zero_attn:
                heads.append(torch.zeros_like(heads[0][..., :1, :]))
        if len(key) == 1:
            return call
        return replace(call, key=torch.cat(key, dim=-2), value=torch.cat(value, dim=-2), same_sequence=False)

    def _check(self, query: Tensor, key: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None) -> None:
        batch, lengths = query.shape[:-2], (query.shape[-2], key.shape[-2])
        wanted = (
            ("key_padding_mask", key_padding_mask, [(*batch, lengths[1])]),
            ("attn_mask", attn_mask, [lengths, (prod(batch) * self.num_heads, *lengths)]),
        )
        for name, mask, shapes in wanted:
            if mask is None:
                continue
            if tuple(mask.shape) not in shapes or not (mask.dtype == torch.bool or mask.is_floating_point()):
                raise ValueError(
                    f"{name}: expected bools (True = may not attend) or floats (added) of shape "
                    f"{' or '.join(map(str, shapes))}; got {mask.dtype}, {tuple(mask.shape)}"
                )
            if mask.device != query.device:
                raise ValueError(f"{name} is on {mask.device}, query on {query.device}: move them to one device")


INPUTS[MultiheadAttention] = (Rows,)


@take_rows.register
def _(module: MultiheadAttention, heads: Sequence[int], kv_heads: Sequence[int]) -> None:
    """Of every parameter that holds heads: the three fused ones hold all of them three times."""
    thirds = [third * module.num_heads + head for third in range(3) for head in heads]
    held = dict.fromkeys(("in_proj_weight", "in_proj_bias"), (0, thirds))
    held |= dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight"), (0, heads))
    held |= dict.fromkeys(("bias_k", "bias_v"), (2, heads))
    for name, (dim, kept) in held.items():
        if (parameter := getattr(module, name)) is not None:
            setattr(module, name, part_of(parameter, dim, kept, module.head_dim))
