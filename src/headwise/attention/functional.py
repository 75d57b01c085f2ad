"""Attention on tensors: the public functions, and the door at which a wrong call fails with a sentence."""

from __future__ import annotations

from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from headwise.attention import formula, masks
from headwise.attention.backends import Choice, choose, explain
from headwise.attention.formula import Call, Stage
from headwise.attention.masks import Mask
from headwise.attention.positions import Bias, as_bias
from headwise.attention.tiles import Select


def attend(
    query: Float[Tensor, "*batch heads query_len head_dim"],
    key: Float[Tensor, "*batch kv_heads key_len head_dim"],
    value: Float[Tensor, "*batch kv_heads key_len value_dim"],
    *,
    mask: Mask | Tensor | None = None,
    bias: Bias | Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    backend: str | None = None,
) -> Float[Tensor, "*batch heads query_len value_dim"]:
    """y_i = sum_j softmax_j(scale * q_i . k_j + bias_ij) v_j over the keys that the mask allows.

    mask: a rule of hw.masks, or a bool tensor broadcastable to (*batch, heads, query_len, key_len), True = may attend.
    bias: a rule of hw.positions, or a float tensor broadcastable likewise, added to the scaled (and capped) scores; -inf
    forbids.
    scale: defaults to 1 / sqrt(head_dim). softcap: s becomes softcap * tanh(s / softcap). sinks: (heads,) scores that join
    the denominator alone. dropout: the share of weights dropped, whoever calls (a module passes 0 in eval).
    backend: None = the fastest that is exact for this call; one of hw.backends = that one, or an error saying why not. Second
    derivatives exist on "formula" alone; first and forward-mode ones whatever is chosen.

    A query that may attend to nothing gives zero output and zero gradients. Query head h uses key-value head
    h // (heads // kv_heads). Raises ValueError where shapes, dtypes or devices do not fit.
    """
    call = make_call(query, key, value, mask, bias, scale, softcap, sinks, dropout)
    return choose(call, backend).attend(call, False)[0]


def attend_with_lse(
    query: Float[Tensor, "*batch heads query_len head_dim"],
    key: Float[Tensor, "*batch kv_heads key_len head_dim"],
    value: Float[Tensor, "*batch kv_heads key_len value_dim"],
    *,
    mask: Mask | Tensor | None = None,
    bias: Bias | Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    backend: str | None = None,
) -> tuple[Float[Tensor, "*batch heads query_len value_dim"], Float[Tensor, "*batch heads query_len"]]:
    """As ``attend``, with lse_i = log sum_j exp s_ij: natural log, at least float32, sinks included,
    -inf for an empty row (with a sink no row is empty)."""
    call = make_call(query, key, value, mask, bias, scale, softcap, sinks, dropout)
    output, lse = choose(call, backend).attend(call, True)
    assert lse is not None
    return output, lse


def attention_weights(
    query: Float[Tensor, "*batch heads query_len head_dim"],
    key: Float[Tensor, "*batch kv_heads key_len head_dim"],
    *,
    mask: Mask | Tensor | None = None,
    bias: Bias | Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    rows: Select | None = None,
    columns: Select | None = None,
    stage: Stage = "weights",
) -> Float[Tensor, "*batch heads rows columns"]:
    """Selected rows and columns of the weights p, or of the scores on their way to them, without building the rest.

    rows, columns: a slice or a tensor of indices; None = all. stage: "product" (scaled), "capped", "masked" (biased and
    masked), "weights". Rows of weights sum to 1; an empty row to 0; with sinks to 1 minus the sink's share.
    """
    call = make_call(query, key, key, mask, bias, scale, softcap, sinks, 0.0)  # weights do not depend on the value
    tile = call.tile(rows, columns)
    return formula.weights(call, tile, stage)


def which_backend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Mask | Tensor | None = None,
    bias: Bias | Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    backend: str | None = None,
) -> Choice:
    """What ``attend`` would run for these arguments, and for each faster backend why not."""
    return explain(make_call(query, key, value, mask, bias, scale, softcap, sinks, dropout), backend)


def make_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask | Tensor | None,
    bias: Bias | Tensor | None,
    scale: float | None,
    softcap: float | None,
    sinks: Tensor | None,
    dropout: float,
    same_sequence: bool = False,
    positions: Tensor | None = None,
) -> Call:
    """Checks the arguments of one call and puts them together."""
    _check_shapes(query, key, value)
    for name, tensor in (("key", key), ("value", value), ("bias", bias), ("sinks", sinks), ("mask", mask)):
        if isinstance(tensor, Tensor) and tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, query on {query.device}: move them to one device")
    if not query.dtype == key.dtype == value.dtype or not query.is_floating_point():
        raise ValueError(f"query, key and value must have one floating dtype; got {query.dtype}, {key.dtype} and {value.dtype}")
    mask = None if mask is None else masks.as_rule(mask)
    bias = None if bias is None else as_bias(bias)
    if sinks is not None and sinks.shape != query.shape[-3:-2]:
        raise ValueError(f"sinks: expected one number per head, ({query.shape[-3]},); got {tuple(sinks.shape)}")
    for name, number in (("scale", scale), ("softcap", softcap), ("dropout", dropout)):
        if not isinstance(number, int | float | torch.SymFloat | None) or (name == "dropout" and number is None):
            raise ValueError(f"{name}: expected a number; got {masks.kind(number)}. A learned scale multiplies the query")
    if softcap is not None and not 0 < softcap < inf:
        raise ValueError(f"softcap: expected a positive number; got {softcap}")
    if scale is not None and not abs(scale) < inf:
        raise ValueError(f"scale: expected a finite number; got {scale}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a share in [0, 1); got {dropout}")
    how = query.shape[-1] ** -0.5 if scale is None else scale
    return Call(query, key, value, mask, bias, how, softcap, sinks, dropout, same_sequence, positions)


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = f"got query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    wanted = (
        "expected query (*batch, heads, query_len, head_dim), key (*batch, kv_heads, key_len, head_dim), "
        f"value (*batch, kv_heads, key_len, value_dim); {shapes}"
    )
    if min(query.dim(), key.dim(), value.dim()) < 3 or not query.dim() == key.dim() == value.dim():
        raise ValueError(wanted)
    if query.shape[-1] != key.shape[-1] or query.shape[-1] == 0:
        raise ValueError(f"query and key must have one head_dim, at least 1: {wanted}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"key and value must have one length: {wanted}")
    if key.shape[-3] != value.shape[-3] or key.shape[-3] == 0 or query.shape[-3] % key.shape[-3]:
        raise ValueError(
            f"heads must be a multiple of kv_heads, key and value must have as many heads: {wanted}. "
            "Tensors (batch, length, heads, head_dim) go in as x.transpose(-3, -2)"
        )
    if not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(
            f"query, key and value must have the same batch dimensions: {wanted}. "
            "The batch comes first: inputs (length, batch, width) of a module go in as x.transpose(0, 1)"
        )
