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
from typing import Literal

import torch
from torch import Tensor

from headwise.attention.tiles import Tile, has_values, kind


class Mask(ABC):
    """A rule on pairs (query, key); see the module's text. Rules are immutable."""

    @abstractmethod
    def allows(self, tile: Tile) -> Tensor:
        """Which pairs of the tile may attend: bool, broadcastable to (*batch, heads, rows, columns)."""

    def flag(self, tile: Tile) -> Literal["all", "causal"] | None:
        """What the whole matrix is, where a kernel has a word for it: "all" pairs, "causal" (a square triangle), or None."""
        return None

    def reach(self, tile: Tile, size: int) -> list[range] | None:
        """For each block of ``size`` rows of the whole matrix the keys outside which nothing is allowed; None = not known."""
        return None

    def sees_itself(self) -> bool:
        """Whether every query may surely attend to the key at its own position."""
        return False

    def real_keys(self, tile: Tile) -> Tensor | None:
        """Which keys are no padding, (*batch, 1, 1, columns), as far as this rule says; None = all."""
        return None

    def __and__(self, other: Mask | Tensor) -> Mask:
        return _Both(self, as_rule(other))

    __rand__ = __and__

    def __or__(self, other: Mask | Tensor) -> Mask:
        return _Either(self, as_rule(other))

    __ror__ = __or__

    def __invert__(self) -> Mask:
        return _Not(self)


@dataclass(frozen=True, eq=False)
class Window(Mask):
    """Positions i - before <= j <= i + after, both ends included; None = unlimited."""

    before: int | None
    after: int | None

    def allows(self, tile: Tile) -> Tensor:
        distance = tile.key_positions - tile.query_positions
        if self.before is None:
            return torch.ones_like(distance, dtype=torch.bool) if self.after is None else distance <= self.after
        back = distance >= -self.before
        return back if self.after is None else back & (distance <= self.after)

    def sees_itself(self) -> bool:
        return True

    def flag(self, tile: Tile) -> Literal["all", "causal"] | None:
        if self.before is not None or self.after != 0 or tile.positions is not None or torch.compiler.is_exporting():
            return None
        if tile.query_len == 1:  # a decoding step: the only query stands at the last key
            return "all"
        return "causal" if tile.query_len == tile.key_len else None

    def reach(self, tile: Tile, size: int) -> list[range] | None:
        blocks, offset = [], tile.key_len - tile.query_len
        for start in range(offset, tile.key_len, size):
            last = min(start + size, tile.key_len) - 1
            low = 0 if self.before is None else max(0, start - self.before)
            high = tile.key_len if self.after is None else min(tile.key_len, last + self.after + 1)
            blocks.append(range(low, high))
        return blocks


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Keys that are real: ``keep`` (*batch, key_len) bool, or the first ``lengths`` (*batch,) keys."""

    keep: Tensor

    def allows(self, tile: Tile) -> Tensor:
        if self.keep.dtype == torch.bool:
            if self.keep.shape[-1] != tile.key_len:
                raise ValueError(
                    f"padding: keep is about {self.keep.shape[-1]} keys, but the call has {tile.key_len}. Keep is (*batch, "
                    "key_len); inputs are (*batch, length, width), batch first; a cache of fixed size counts all its slots"
                )
            return tile.of_keys(self.keep)
        if self.keep.dim() > tile.batch_dims:
            raise ValueError(
                f"padding: integers are lengths, (*batch,), and these are {tuple(self.keep.shape)}; "
                "real keys go in as bools: hw.masks.padding(attention_mask.bool())"
            )
        return tile.key_positions < tile.of_sequences(self.keep)

    def real_keys(self, tile: Tile) -> Tensor | None:
        return self.allows(tile)


@dataclass(frozen=True, eq=False)
class Documents(Mask):
    """Packed sequences: equal ``ids`` (*batch, key_len) attend; queries have the last query_len ids."""

    ids: Tensor

    def allows(self, tile: Tile) -> Tensor:
        self._check(tile)
        return tile.of_queries(self.ids) == tile.of_keys(self.ids)

    def sees_itself(self) -> bool:
        return True

    def reach(self, tile: Tile, size: int) -> list[range] | None:
        if not has_values(self.ids) or self.ids.numel() == 0:  # on which the blocks depend
            return None
        self._check(tile)
        ids, document = torch.unique(self.ids.reshape(-1, tile.key_len), return_inverse=True)
        position = torch.arange(tile.key_len, device=ids.device).expand_as(document)
        bounds = []
        for reduce in ("amin", "amax"):  # the first and the last key of every document
            ends = position.new_zeros(len(document), len(ids)).scatter_reduce(1, document, position, reduce, include_self=False)
            bounds.append(ends.gather(1, document)[:, tile.key_len - tile.query_len :].split(size, dim=1))
        return [range(int(first.min()), int(last.max()) + 1) for first, last in zip(*bounds, strict=True)]

    def _check(self, tile: Tile) -> None:
        count = self.ids.shape[-1] if self.ids.dim() else "no row of"
        if count != tile.key_len or tile.query_len > tile.key_len:
            raise ValueError(
                f"documents: {count} ids for {tile.key_len} keys and {tile.query_len} queries; "
                "give one id per key, and at most as many queries as keys"
            )


@dataclass(frozen=True, eq=False)
class Prefix(Mask):
    """Keys at positions below ``lengths`` (*batch,), for every query."""

    lengths: Tensor

    def allows(self, tile: Tile) -> Tensor:
        return tile.key_positions < tile.of_sequences(self.lengths)


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """A bool tensor broadcastable to (*batch, heads, query_len, key_len); a 2-D one is (query_len, key_len)."""

    tensor: Tensor
    full_rows: bool = False  # known to let every query see its own key

    def allows(self, tile: Tile) -> Tensor:
        tile.fits("mask", self.tensor)
        return tile.of_pairs(self.tensor)

    def sees_itself(self) -> bool:
        return self.full_rows


@dataclass(frozen=True, eq=False)
class _Both(Mask):
    left: Mask
    right: Mask

    def allows(self, tile: Tile) -> Tensor:
        return self.left.allows(tile) & self.right.allows(tile)

    def sees_itself(self) -> bool:
        return self.left.sees_itself() and self.right.sees_itself()

    def flag(self, tile: Tile) -> Literal["all", "causal"] | None:
        left, right = self.left.flag(tile), self.right.flag(tile)
        return right if left == "all" else left if right == "all" or left == right else None

    def reach(self, tile: Tile, size: int) -> list[range] | None:
        left, right = self.left.reach(tile, size), self.right.reach(tile, size)
        if left is None or right is None:
            return right if left is None else left
        return [range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(left, right, strict=True)]

    def real_keys(self, tile: Tile) -> Tensor | None:
        left, right = self.left.real_keys(tile), self.right.real_keys(tile)
        return right if left is None else left if right is None else left & right


@dataclass(frozen=True, eq=False)
class _Either(Mask):
    left: Mask
    right: Mask

    def allows(self, tile: Tile) -> Tensor:
        return self.left.allows(tile) | self.right.allows(tile)

    def sees_itself(self) -> bool:
        return self.left.sees_itself() or self.right.sees_itself()

    def reach(self, tile: Tile, size: int) -> list[range] | None:
        left, right = self.left.reach(tile, size), self.right.reach(tile, size)
        if left is None or right is None:
            return None
        return [range(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(left, right, strict=True)]


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
        if width is not None and (not isinstance(width, int) or width < 0):
            raise ValueError(f"window: {name} counts positions and must be an integer and not be negative; got {width}")
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
            "0/1 integers go in as mask.bool(); torch's float masks of 0 and -inf as mask == 0; "
            "a tensor that is added to the scores as bias= of hw.attend"
        )
    if _says_drop(tensor):
        raise ValueError(
            "mask: True = may attend, and this one lets every query attend only to what comes after it (the last to nothing): "
            "it seems to be made for torch.nn.MultiheadAttention, where True = drop. Write hw.masks.causal(), or ~mask"
        )
    return Dense(tensor)


def _says_drop(mask: Tensor) -> bool:
    """Whether a mask is the strict upper triangle: a causal mask of those who say True = drop. Looks at CPU tensors alone,
    for on other devices looking means waiting, and never while tracing."""
    looks = has_values(mask) and mask.device.type == "cpu"
    if not looks or mask.dim() != 2 or mask.shape[0] != mask.shape[1] or len(mask) < 2 or mask[0, 0] or not mask[0, -1]:
        return False
    return torch.equal(mask, torch.ones_like(mask).triu(1))


def as_rule(mask: Mask | Tensor) -> Mask:
    """A rule as it is, a bool tensor as the rule ``dense``."""
    return mask if isinstance(mask, Mask) else dense(mask)


def _checked(rule: str, tensor: Tensor, wanted: str) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{rule}: expected a tensor of {wanted}; got {kind(tensor)}")
    return tensor


_RULES = [Window, Padding, Documents, Prefix, Dense, _Both, _Either, _Not]
for _rule in _RULES:  # so that torch.export takes rules as inputs, and reads its files again
    torch.export.register_dataclass(_rule, serialized_type_name=f"headwise.masks.{_rule.__name__}")
torch.serialization.add_safe_globals(_RULES)
