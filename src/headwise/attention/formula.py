"""The definition of attention. Fast kernels are checked against this file; statistics and pictures evaluate it by tile.

    s = scale * q_i . k_j                    "product"
    s = softcap * tanh(s / softcap)          "capped"     if a softcap is given
    s = s + bias_ij                                       -inf forbids
    s = -inf where the mask forbids (i, j)   "masked"
    p = softmax_j(s)                         "weights"    learned sinks join the denominator; an empty row gives p = 0
    y_i = sum_j p_ij v_j                                  dropout, in training, acts on p

Products, softmax and sums run in at least float32, also under autocast. Query head h uses key-value head
h // (heads // kv_heads). Vaswani et al. 2017 (section 3.2) write d_k for head_dim and have neither softcap nor sinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headwise.attention.masks import Mask
from headwise.attention.positions import Bias
from headwise.attention.tiles import Select, Tile, as_added, fitting, without_autocast

Stage = Literal["product", "capped", "masked", "weights"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of attention: the tensors and the rules. The neutral record that everything else is computed from.

    query (*batch, heads, query_len, head_dim); key (*batch, kv_heads, key_len, head_dim);
    value (*batch, kv_heads, key_len, value_dim); sinks (heads,). ``same_sequence``: queries and keys are positions of one
    sequence (self-attention), so that distances make sense. ``positions``: where the queries stand, (query_len,), if a cache
    says so.
    """

    query: Float[Tensor, "*batch heads query_len head_dim"]
    key: Float[Tensor, "*batch kv_heads key_len head_dim"]
    value: Float[Tensor, "*batch kv_heads key_len value_dim"]
    mask: Mask | None
    bias: Bias | None
    scale: float
    softcap: float | None
    sinks: Tensor | None
    dropout: float = 0.0
    same_sequence: bool = False
    positions: Int[Tensor, " query_len"] | None = None

    def tile(self, rows: Select | None = None, columns: Select | None = None) -> Tile:
        """The rows and columns given (None = all) of this call's score matrix."""
        for name, chosen in (("rows", rows), ("columns", columns)):
            if not isinstance(chosen, slice | Tensor | None):
                raise ValueError(f"{name}: expected a slice or a tensor of indices; got {chosen!r}")
        rows, columns = (slice(None) if chosen is None else chosen for chosen in (rows, columns))
        query_len, key_len, batch_dims = self.query.shape[-2], self.key.shape[-2], self.query.dim() - 3
        return Tile(query_len, key_len, rows, columns, self.query.device, batch_dims, self.positions)

    def corners(self) -> tuple[Tensor | None, Tensor | None]:
        """Mask and bias of the first pair of every head, if they fit the whole call; for those who never form the whole."""
        corner, shape = self.tile(slice(1), slice(1)), torch.Size((*self.query.shape[:-1], self.key.shape[-2]))
        mask, bias = None if self.mask is None else self.mask.allows(corner), self.added(corner)
        for what, x in (("mask", mask), ("bias", bias)):
            if x is not None:
                fitting(what, x.expand(*x.shape[:-2], *shape[-2:]), shape)
        return mask, bias

    def added(self, tile: Tile) -> Tensor | None:
        """The bias of a tile, broadcastable to (*batch, heads, rows, columns)."""
        if self.bias is None:
            return None
        return self.bias.added(tile, self.query[..., tile.rows, :], self.key[..., tile.columns, :], self.scale)


def scores(call: Call, tile: Tile, stage: Stage = "masked") -> Float[Tensor, "*batch heads rows columns"]:
    """s of a tile up to a stage ("weights" is none of them), in at least float32."""
    if stage not in ("product", "capped", "masked"):
        raise ValueError(f"stage: expected 'product', 'capped', 'masked' or 'weights'; got {stage!r}")
    wide = torch.promote_types(call.query.dtype, torch.float32)
    query = _by_key_head(call.query[..., tile.rows, :], call).to(wide)
    key = call.key[..., tile.columns, :].unsqueeze(-3).to(wide)
    s = ((call.scale * query) @ key.mT).flatten(-4, -3)
    if stage == "product":
        return s
    if call.softcap is not None:
        s = call.softcap * torch.tanh(s / call.softcap)
    if stage == "capped":
        return s
    bias = call.added(tile)
    if bias is not None:
        s = s + fitting("bias", bias, s.shape).to(wide)
    if call.mask is not None:  # adding is several times faster than filling, and the mask is often smaller than the scores
        s = s + as_added(fitting("mask", call.mask.allows(tile), s.shape), wide)
    return s


def allowed(call: Call, tile: Tile) -> Bool[Tensor, ...]:
    """Which pairs of a tile mask and bias let attend, broadcastable to (*batch, heads, rows, columns)."""
    pairs = torch.ones(tile.num_rows, tile.num_columns, dtype=torch.bool, device=call.query.device)
    if call.mask is not None:
        pairs = pairs & call.mask.allows(tile)
    bias = call.added(tile) if call.bias is not None and call.bias.forbids else None
    if bias is not None:
        pairs = pairs & (bias > -torch.inf)
    return pairs


def softmax(
    s: Float[Tensor, "*batch heads rows columns"], sinks: Float[Tensor, " heads"] | None
) -> Float[Tensor, "*batch heads rows columns"]:
    """p of whole rows. A row that is -inf throughout gives p = 0 and zero gradients."""
    s, empty = _finite(s, sinks)
    p = s.softmax(dim=-1) * ~empty[..., None]
    return p if sinks is None else p[..., :-1]


def log_sum_exp(
    s: Float[Tensor, "*batch heads rows columns"], sinks: Float[Tensor, " heads"] | None
) -> Float[Tensor, "*batch heads rows"]:
    """log sum_j exp s_ij of whole rows, the sink's share included; -inf, without a gradient, where a row is empty."""
    s, empty = _finite(s, sinks)
    return s.logsumexp(dim=-1).masked_fill(empty, -torch.inf)


def join_sinks(output: Tensor, lse: Tensor, sinks: Float[Tensor, " heads"]) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of rows whose denominator the sinks join, from those without."""
    joined = torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])
    return (output * (lse - joined).exp()[..., None]).to(output.dtype), joined


def weights(call: Call, tile: Tile, stage: Stage = "weights") -> Float[Tensor, "*batch heads rows columns"]:
    """s or p of a tile. Whole rows are needed for the denominator of p; the columns are selected afterwards."""
    with without_autocast(call.query.device):
        if stage != "weights":
            return scores(call, tile, stage)
        return softmax(scores(call, call.tile(tile.rows)), call.sinks)[..., tile.columns]


def attend(
    call: Call, lse: bool = False
) -> tuple[Float[Tensor, "*batch heads query_len value_dim"], Float[Tensor, "*batch heads query_len"] | None]:
    """y and, where asked for, the log-sum-exp of every row, by the definition: builds the whole matrix."""
    with without_autocast(call.query.device):
        s = scores(call, call.tile())
        p = torch.nn.functional.dropout(softmax(s, call.sinks), call.dropout)
        y = _by_key_head(p, call) @ call.value.unsqueeze(-3).to(p.dtype)
        return y.flatten(-4, -3).to(call.query.dtype), log_sum_exp(s, call.sinks) if lse else None


def _finite(s: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores with the sinks as a last column and -inf made finite, and which rows have nothing else: the softmax of a row of
    -inf is nan, and so is its gradient."""
    if sinks is not None:
        sink = sinks.to(s.dtype)[:, None, None].expand(*s.shape[:-1], 1)
        s = torch.cat([s, sink], dim=-1)
    if s.shape[-1] == 0:
        return s, torch.ones(s.shape[:-1], dtype=torch.bool, device=s.device)
    return s.clamp(min=torch.finfo(s.dtype).min), s.detach().amax(dim=-1) == -torch.inf


def _by_key_head(x: Tensor, call: Call) -> Tensor:
    """(*batch, heads, ...) -> (*batch, kv_heads, heads // kv_heads, ...): the query heads that share a key head."""
    return x.unflatten(-3, (call.key.shape[-3], -1))
