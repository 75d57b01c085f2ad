"""Positions that act inside attention: those that turn query and key (rotary.py), and those that are added to the scores.

A bias rule answers one question, ``added(tile, query, key, scale)``: what is added to the scores of these queries and keys,
after a softcap and before the mask? Like masks, rules see positions: key j has position j, query i has position
key_len - query_len + i unless a cache says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, log2

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headwise.attention.rotary import NTK, AfterRotation, Linear, Llama3, Rotary, Scaling, YaRN
from headwise.attention.tiles import Tile, kind

__all__ = [
    "NTK", "AfterRotation", "Alibi", "Bias", "Linear", "Llama3", "Rotary", "Scaling", "Shaw", "T5Buckets",
    "TransformerXL", "YaRN",
]  # fmt: skip


class Bias(ABC):
    """A rule for what is added to the scores; see the module's text. ``forbids``: whether that may be -inf."""

    forbids: bool = True

    @abstractmethod
    def added(
        self,
        tile: Tile,
        query: Float[Tensor, "*batch heads rows head_dim"],
        key: Float[Tensor, "*batch kv_heads columns head_dim"],
        scale: float,
    ) -> Tensor:
        """The bias of a tile, broadcastable to (*batch, heads, rows, columns), from its queries and keys as they met."""


@dataclass(frozen=True, eq=False)
class Added(Bias):
    """A float tensor broadcastable to (*batch, heads, query_len, key_len), learned or given; -inf forbids."""

    tensor: Tensor

    def added(self, tile: Tile, query: Tensor, key: Tensor, scale: float) -> Tensor:
        tile.fits("bias", self.tensor)
        return tile.of_pairs(self.tensor)


@dataclass(frozen=True)
class Alibi(Bias):
    """Attention with linear biases (Press et al. 2022): bias_hij = -slope_h |i - j|, one fixed slope per head.

    For n = ``num_heads`` a power of two, slope_h = 2^(-8 (h + 1) / n); otherwise the slopes of the power of two below n come
    first, then every second slope of the power above (as in the paper's code and BLOOM). ``slopes`` replaces them. Keys after
    the query count by their distance, too; with a causal mask this is the paper's -slope (i - j).
    """

    forbids = False
    num_heads: int
    slopes: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.slopes is not None:
            object.__setattr__(self, "slopes", tuple(map(float, self.slopes)))  # which are given, not learned
        if self.num_heads < 1 or (self.slopes is not None and len(self.slopes) != self.num_heads):
            count = "none" if self.slopes is None else len(self.slopes)
            raise ValueError(f"Alibi: expected one slope for each of num_heads = {self.num_heads} heads; got {count}")

    def added(self, tile: Tile, query: Tensor, key: Tensor, scale: float) -> Tensor:
        _made_for(self, query, self.num_heads)
        return self.line(tile, self.of_heads(query))

    def line(self, tile: Tile, slopes: Float[Tensor, " heads"]) -> Tensor:
        """-slope |i - j| of a tile, for slopes that lie on its device."""
        return -tile.of_heads(slopes) * (tile.query_positions - tile.key_positions).abs()

    @property
    def each(self) -> Sequence[float]:
        """The slope of every head."""
        if self.slopes is not None:
            return self.slopes
        below = 2 ** int(log2(self.num_heads))
        slopes = [2 ** (-8 * (h + 1) / below) for h in range(below)]
        return slopes + [2 ** (-4 * (2 * h + 1) / below) for h in range(self.num_heads - below)]

    def of_heads(self, like: Tensor) -> Float[Tensor, " heads"]:
        """The slopes, where a tensor lies."""
        return torch.tensor(self.each, dtype=_wide(like)).to(like.device, non_blocking=True)


class T5Buckets(nn.Module, Bias):
    """The relative bias of T5 (Raffel et al. 2020): bias_hij = weight[bucket(j - i), h], added to the scores unscaled.

    bucket: in one direction, with n buckets for it, distances below n / 2 have one each, longer ones share
    n / 2 + floor(ln(distance / (n / 2)) / ln(max_distance / (n / 2)) * n / 2), and those from ``max_distance`` on the last.
    bidirectional=True gives keys at or before the query the first half of ``num_buckets``, keys after it the second;
    bidirectional=False gives all to the keys before, and those after share bucket 0 with the query's own.

    weight: (num_buckets, num_heads), zero at first (which is plain attention). T5 shares one table among all layers of a
    stack: give them one T5Buckets. T5 also leaves its scores unscaled: hw.Scores(scale=1.0).
    """

    forbids = False

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        one_way = num_buckets // 2 if bidirectional else num_buckets
        if one_way < 2 or max_distance <= one_way // 2:
            raise ValueError(
                f"T5Buckets: expected at least 2 buckets a direction and max_distance above half of them; "
                f"got num_buckets = {num_buckets} and max_distance = {max_distance}"
            )
        self.num_buckets, self.max_distance, self.bidirectional = num_buckets, max_distance, bidirectional
        self.heads: slice | list[int] = slice(None)  # whose columns are read: some, after hw.prune
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def added(self, tile: Tile, query: Tensor, key: Tensor, scale: float) -> Tensor:
        table = self.weight[:, self.heads].to(_wide(query)).T
        _made_for(self, query, len(table))
        return _by_distance(tile, lambda back: table[:, None, self.bucket(-back)])

    def bucket(self, distance: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The bucket of every distance j - i, key minus query."""
        buckets, after = self.num_buckets, torch.zeros_like(distance)
        if self.bidirectional:
            buckets //= 2
            after = (distance > 0) * buckets
        length = distance.abs() if self.bidirectional else (-distance).clamp(min=0)
        exact = buckets // 2
        # As published, in float32: the order of operations decides where a boundary falls.
        far = torch.log(length.clamp(min=1).float() / exact) / log(self.max_distance / exact) * (buckets - exact)
        return after + torch.where(length < exact, length, (exact + far.long()).clamp(max=buckets - 1))


class Shaw(nn.Module, Bias):
    """Relative keys (Shaw et al. 2018): s_ij = scale q_i . (k_j + a_ij) with a_ij = weight[clip(i - j)], the paper's a^K.

    Keys up to ``before`` positions back and ``after`` ahead have a row each, farther ones share the last. weight:
    (after + before + 1, head_dim), one for all heads, zero at first; row r is distance i - j = r - after. The paper has
    before = after = k and counts j - i, which is these rows in reverse; SpeechT5 has before = 159, after = 160. The paper's
    relative values a^V are left out, as most of its descendants leave them.
    """

    forbids = False

    def __init__(
        self,
        head_dim: int,
        before: int,
        after: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(before, after) < 0:
            raise ValueError(f"Shaw: before and after count positions and must not be negative; got {before} and {after}")
        self.before, self.after = before, after
        self.weight = nn.Parameter(torch.empty(after + before + 1, head_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def added(self, tile: Tile, query: Tensor, key: Tensor, scale: float) -> Tensor:
        _made_for(self, query, None, self.weight.shape[1])
        wide = _wide(query)
        products = scale * (query.to(wide) @ self.weight.to(wide).T)
        return _by_distance(tile, lambda back: products[..., back.clamp(-self.after, self.before) + self.after])


class TransformerXL(nn.Module, Bias):
    """Relative positions of Transformer-XL (Dai et al. 2019), as Conformers have them:

        s_ij = scale ((q_i + u) . k_j + (q_i + v) . W r_(i - j))         bias_ij = s_ij - scale q_i . k_j

    r_d is the interleaved sinusoid of the signed distance d = i - j, ``embed_dim`` channels wide; W (``proj``, the paper's
    W_k,R) makes it (num_heads, head_dim); u and v are (num_heads, head_dim), zero at first. A Conformer has u, v and W in every
    layer; Transformer-XL shares u and v among its layers.
    """

    forbids = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.proj = nn.Linear(embed_dim, num_heads * head_dim, bias=False, device=device, dtype=dtype)
        self.u = nn.Parameter(torch.empty(num_heads, head_dim, device=device, dtype=dtype))
        self.v = nn.Parameter(torch.empty(num_heads, head_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.u)
        nn.init.zeros_(self.v)

    def added(self, tile: Tile, query: Tensor, key: Tensor, scale: float) -> Tensor:
        _made_for(self, query, *self.u.shape)
        wide = _wide(query)
        u, v, w = (x.to(wide) for x in (self.u, self.v, self.proj.weight))
        of_keys = (u.unflatten(0, (key.shape[-3], -1)) @ key.to(wide).mT).flatten(-3, -2)[..., None, :]

        def of_distance(back: Tensor) -> Tensor:
            relative = (self.of_distances(back, wide) @ w.T).unflatten(-1, u.shape)
            return (query.to(wide) + v[:, None]) @ relative.permute(1, 2, 0)

        return scale * (of_keys + _by_distance(tile, of_distance))

    def of_distances(self, back: Tensor, dtype: torch.dtype) -> Float[Tensor, "distances embed_dim"]:
        """r_d of signed distances."""
        return sinusoids(back, self.proj.in_features, dtype)


def sinusoids(positions: Tensor, width: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*positions {width}"]:
    """Channel 2m is sin(p base^(-2m / width)), channel 2m + 1 the cosine, base = 10,000 (Vaswani et al. 2017, section 3.5)."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, device=positions.device, dtype=dtype) / width)
    angle = positions[..., None] * frequencies
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., :width]


def as_bias(bias: Bias | Tensor) -> Bias:
    """A rule as it is, a float tensor as the rule that adds it."""
    if isinstance(bias, Bias):
        return bias
    if not isinstance(bias, Tensor) or not bias.is_floating_point():
        raise ValueError(
            f"bias: expected a float tensor, added to the scores, or a rule such as hw.positions.Alibi; got {kind(bias)}. "
            "A bool tensor goes in as mask="
        )
    return Added(bias)


def _wide(query: Tensor) -> torch.dtype:
    return torch.promote_types(query.dtype, torch.float32)


def _made_for(rule: Bias, query: Tensor, num_heads: int | None, head_dim: int | None = None) -> None:
    """Raises ValueError where a query has other heads than a rule."""
    if num_heads not in (None, query.shape[-3]) or head_dim not in (None, query.shape[-1]):
        wanted = [f"num_heads = {num_heads}"] * (num_heads is not None) + [f"head_dim = {head_dim}"] * (head_dim is not None)
        raise ValueError(
            f"{type(rule).__name__}: made for {' and '.join(wanted)}; "
            f"got a query (*batch, heads, query_len, head_dim) of {tuple(query.shape)}"
        )


def _by_distance(tile: Tile, values: Callable[[Int[Tensor, " distances"]], Tensor]) -> Tensor:
    """Entry (i, j) of the tile is the value at distance i - j; ``values`` of distances gives (..., rows or 1, distances).

    In a run of rows and columns the gather is the relative shift of Transformer-XL: let distances fall along a row, and row r
    must start one entry before row r - 1 does; so it does when all rows are read as one line cut into rows one entry shorter.
    """
    if not tile.is_run or tile.num_rows == 0 or tile.num_columns == 0:
        farthest = max(tile.query_len, tile.key_len)
        table = values(torch.arange(farthest, -farthest, -1, device=tile.device))
        index = farthest - (tile.query_positions - tile.key_positions)
        return torch.take_along_dim(table, index[(None,) * (table.dim() - 2)], dim=-1)
    rows, columns = tile.num_rows, tile.num_columns
    first = tile.query_positions[:1, 0] - tile.key_positions[0, :1]
    table = values(first + torch.arange(rows - 1, -columns - 1, -1, device=tile.device))
    line = table.expand(*table.shape[:-2], rows, -1).flatten(-2)[..., rows - 1 :]
    shorter = rows + columns - 1
    return line[..., : rows * shorter].unflatten(-1, (rows, shorter))[..., :columns]
