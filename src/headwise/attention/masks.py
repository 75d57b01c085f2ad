"""Mask rules: who may attend to whom, said once and evaluated where it is needed.

A rule answers one question, ``allows(tile)``: for the queries and keys of a tile, which pairs (i, j) may attend?
**True = may attend**; rows are queries, columns are keys. Rules combine with ``&``, ``|`` and ``~``.

Rules see positions, not indices: key j has position j, query i has position ``key_len - query_len + i``, so that the last
query stands at the last key. ``torch.nn.functional.scaled_dot_product_attention(is_causal=True)`` aligns the first query
with the first key instead, and ``torch.nn.MultiheadAttention`` says True = drop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

Select = slice | Tensor


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows and columns of the score matrix: which queries and keys, by index, and where they stand.

    ``query_len`` and ``key_len`` are those of the whole matrix; ``rows`` and ``columns`` select from it (a slice or a
    tensor of indices); ``batch_dims`` is how many batch dimensions the matrices are stacked in.
    """

    query_len: int
    key_len: int
    rows: Select
    columns: Select
    device: torch.device
    batch_dims: int

    @property
    def query_positions(self) -> Tensor:
        """Position of every selected query, as a column (rows, 1)."""
        return (torch.arange(self.query_len, device=self.device)[self.rows] + self.key_len - self.query_len)[:, None]

    @property
    def key_positions(self) -> Tensor:
        """Position of every selected key, as a row (1, columns)."""
        return torch.arange(self.key_len, device=self.device)[self.columns][None, :]

    @property
    def num_rows(self) -> int:
        return self.query_positions.shape[0]

    @property
    def num_columns(self) -> int:
        return self.key_positions.shape[1]


class Mask(ABC):
    """A rule on pairs (query, key); see the module's text. Rules are immutable."""

    @abstractmethod
    def allows(self, tile: Tile) -> Tensor:
        """Which pairs of the tile may attend: bool, broadcastable to (*batch, heads, rows, columns)."""

    def lower(self, tile: Tile) -> Tensor | str | None:
        """The whole matrix in the cheapest form a kernel takes: None (no mask), "causal" (a square triangle) or a tensor."""
        return self.allows(tile)

    def real_keys(self, tile: Tile) -> Tensor | None:
        """Which keys are no padding, (*batch, 1, 1, columns), as far as this rule says; None = all."""
        return None

    def __and__(self, other: Mask | Tensor) -> Mask:
        return _Both(self, as_rule(other))

    def __or__(self, other: Mask | Tensor) -> Mask:
        return _Either(self, as_rule(other))

    def __invert__(self) -> Mask:
        return _Not(self)


@dataclass(frozen=True, eq=False)
class Window(Mask):
    """Positions i - before <= j <= i + after, both ends included; None = unlimited."""

    before: int | None
    after: int | None

    def allows(self, tile: Tile) -> Tensor:
        distance = tile.key_positions - tile.query_positions
        allowed = torch.ones_like(distance, dtype=torch.bool)
        if self.before is not None:
            allowed = allowed & (distance >= -self.before)
        if self.after is not None:
            allowed = allowed & (distance <= self.after)
        return allowed

    def lower(self, tile: Tile) -> Tensor | str | None:
        if self.before is None and self.after == 0:
            if tile.query_len == 1:  # a decoding step: the only query stands at the last key
                return None
            if tile.query_len == tile.key_len:
                return "causal"
        return self.allows(tile)


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Keys that are real: ``keep`` (*batch, key_len) bool, or the first ``lengths`` (*batch,) keys."""

    keep: Tensor

    def allows(self, tile: Tile) -> Tensor:
        if self.keep.dtype == torch.bool:
            if self.keep.shape[-1] != tile.key_len:
                raise ValueError(f"padding: keep is about {self.keep.shape[-1]} keys, but the call has {tile.key_len}")
            return self.keep[..., tile.columns][..., None, None, :]
        if self.keep.dim() > tile.batch_dims:
            raise ValueError(
                f"padding: integers are lengths, (*batch,), and these are {tuple(self.keep.shape)}; "
                "real keys go in as bools: hw.masks.padding(attention_mask.bool())"
            )
        return tile.key_positions < self.keep[..., None, None, None]

    def real_keys(self, tile: Tile) -> Tensor | None:
        return self.allows(tile)


@dataclass(frozen=True, eq=False)
class Documents(Mask):
    """Packed sequences: equal ``ids`` (*batch, key_len) attend; queries have the last query_len ids."""

    ids: Tensor

    def allows(self, tile: Tile) -> Tensor:
        if self.ids.shape[-1] != tile.key_len or tile.query_len > tile.key_len:
            raise ValueError(
                f"documents: {self.ids.shape[-1]} ids for {tile.key_len} keys and {tile.query_len} queries; "
                "give one id per key, and at most as many queries as keys"
            )
        queries = self.ids[..., tile.key_len - tile.query_len :][..., tile.rows]
        return (queries[..., :, None] == self.ids[..., tile.columns][..., None, :])[..., None, :, :]


@dataclass(frozen=True, eq=False)
class Prefix(Mask):
    """Keys at positions below ``lengths`` (*batch,), for every query."""

    lengths: Tensor

    def allows(self, tile: Tile) -> Tensor:
        return tile.key_positions < self.lengths[..., None, None, None]


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """A bool tensor broadcastable to (*batch, heads, query_len, key_len); a 2-D one is (query_len, key_len)."""

    tensor: Tensor

    def allows(self, tile: Tile) -> Tensor:
        return select("mask", self.tensor, tile)


@dataclass(frozen=True, eq=False)
class _Both(Mask):
    left: Mask
    right: Mask

    def allows(self, tile: Tile) -> Tensor:
        return self.left.allows(tile) & self.right.allows(tile)

    def lower(self, tile: Tile) -> Tensor | str | None:
        if self.left.lower(tile) is None:
            return self.right.lower(tile)
        if self.right.lower(tile) is None:
            return self.left.lower(tile)
        return self.allows(tile)

    def real_keys(self, tile: Tile) -> Tensor | None:
        left, right = self.left.real_keys(tile), self.right.real_keys(tile)
        return right if left is None else left if right is None else left & right


@dataclass(frozen=True, eq=False)
class _Either(Mask):
    left: Mask
    right: Mask

    def allows(self, tile: Tile) -> Tensor:
        return self.left.allows(tile) | self.right.allows(tile)


@dataclass(frozen=True, eq=False)
class _Not(Mask):
    rule: Mask

    def allows(self, tile: Tile) -> Tensor:
        return ~self.rule.allows(tile)


def causal() -> Mask:
    """Keys at the query's own position and before it."""
    return Window(None, 0)


def window(before: int | None, after: int | None) -> Mask:
    """Keys from ``before`` positions back to ``after`` ahead, both included: window(256, 0) is 257 keys. None = unlimited."""
    for name, width in (("before", before), ("after", after)):
        if width is not None and width < 0:
            raise ValueError(f"window: {name} counts positions and must not be negative; got {width}")
    return Window(before, after)


def padding(lengths_or_keep: Tensor) -> Mask:
    """Real keys: lengths (*batch,) of integers, or keep (*batch, key_len) of bools. True = a real key."""
    return Padding(
        _checked("padding", lengths_or_keep, "integer lengths (*batch,) or bools (*batch, key_len), True = a real key")
    )


def documents(ids: Tensor) -> Mask:
    """Packed documents, ids (*batch, key_len): a query attends to the keys of its own document."""
    return Documents(_checked("documents", ids, "integer ids (*batch, key_len)"))


def prefix(lengths: Tensor) -> Mask:
    """Keys below a length (*batch,), whatever the query: prefix-causal attention is causal() | prefix(lengths)."""
    return Prefix(_checked("prefix", lengths, "integer lengths (*batch,)"))


def dense(tensor: Tensor) -> Mask:
    """Any mask as a bool tensor broadcastable to (*batch, heads, query_len, key_len); 2-D = (query_len, key_len)."""
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.bool:
        raise ValueError(
            "mask: expected a rule of hw.masks, called as in hw.masks.causal(), or a bool tensor, True = may attend; "
            f"got {kind(tensor)}. "
            "A tensor that is added to the scores goes in as bias=; 0/1 integers as mask.bool()"
        )
    return Dense(tensor)


def as_rule(mask: Mask | Tensor) -> Mask:
    """A rule as it is, a bool tensor as the rule ``dense``."""
    return mask if isinstance(mask, Mask) else dense(mask)


def _checked(rule: str, tensor: Tensor, wanted: str) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{rule}: expected a tensor of {wanted}; got {kind(tensor)}")
    return tensor


def kind(x: object) -> str:
    """What something is, for a message."""
    return str(x.dtype) if isinstance(x, Tensor) else f"a {type(x).__name__}"


def select(what: str, tensor: Tensor, tile: Tile) -> Tensor:
    """The rows and columns of a tile from a tensor broadcastable to (*batch, heads, query_len, key_len)."""
    wanted = (tile.query_len, tile.key_len)
    if tensor.dim() < 2 or any(have not in (1, want) for have, want in zip(tensor.shape[-2:], wanted, strict=True)):
        raise ValueError(
            f"{what}: expected a tensor that broadcasts to (*batch, heads, query_len={wanted[0]}, key_len={wanted[1]}); "
            f"got {tuple(tensor.shape)}. Which keys are padding is said by hw.masks.padding(keep)"
        )
    if tensor.shape[-2] != 1:
        tensor = tensor[..., tile.rows, :]
    if tensor.shape[-1] != 1:
        tensor = tensor[..., tile.columns]
    return tensor
