"""A tile of the score matrix: which queries and keys, where they stand, and how rules pick what belongs to them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Select = slice | Tensor


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows and columns of the score matrix, by index, and the positions of their queries and keys.

    ``query_len`` and ``key_len`` are those of the whole matrix; ``rows`` and ``columns`` select from it (a slice or a
    tensor of indices); ``batch_dims`` is how many batch dimensions the matrices are stacked in. Key j has position j; query i
    has position ``positions[i]`` where a cache supplies them, (query_len,) integers, and else key_len - query_len + i.

    The ``of_...`` methods give what a rule holds the shape that broadcasts to (*batch, heads, rows, columns).
    """

    query_len: int
    key_len: int
    rows: Select
    columns: Select
    device: torch.device
    batch_dims: int
    positions: Tensor | None = None

    @property
    def query_positions(self) -> Tensor:
        """Position of every selected query, as a column (rows, 1)."""
        if self.positions is not None:
            return self.positions[self.rows][:, None]
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

    @property
    def is_run(self) -> bool:
        """Whether rows and columns are each one after the other, at the positions they have without a cache."""
        chosen = (self.rows, self.columns)
        return self.positions is None and all(isinstance(x, slice) and x.step in (None, 1) for x in chosen)

    def of_sequences(self, x: Tensor) -> Tensor:
        """One entry per sequence, (*batch,)."""
        return x[..., None, None, None]

    def of_keys(self, x: Tensor) -> Tensor:
        """One entry per position, (*batch, key_len): that of every key."""
        return x[..., self.columns][..., None, None, :]

    def of_queries(self, x: Tensor) -> Tensor:
        """One entry per position, (*batch, key_len): that of every query."""
        if self.positions is not None:
            return x[..., self.positions[self.rows]][..., None, :, None]
        return x[..., self.key_len - self.query_len :][..., self.rows][..., None, :, None]

    def of_heads(self, x: Tensor) -> Tensor:
        """One entry per head, (heads,)."""
        return x[:, None, None]

    def of_pairs(self, x: Tensor) -> Tensor:
        """One entry per pair, broadcastable to (*batch, heads, query_len, key_len)."""
        if x.shape[-2] != 1:
            x = x[..., self.rows, :]
        return x if x.shape[-1] == 1 else x[..., self.columns]

    def fits(self, what: str, x: Tensor) -> None:
        """Raises ValueError where a tensor about pairs does not end in (query_len, key_len), or 1 in their place."""
        wanted = (self.query_len, self.key_len)
        if x.dim() < 2 or any(have not in (1, want) for have, want in zip(x.shape[-2:], wanted, strict=True)):
            raise ValueError(
                f"{what}: expected a tensor that broadcasts to (*batch, heads, query_len={wanted[0]}, key_len={wanted[1]}); "
                f"got {tuple(x.shape)}. Which keys are padding is said by hw.masks.padding(keep), True = a real key"
            )


def fitting(what: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """A mask or bias, if it broadcasts to the shape of the scores."""
    if tensor.dim() > len(shape) or any(m not in (1, n) for m, n in zip(tensor.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(
            f"{what}: expected a shape that broadcasts to (*batch, heads, query_len, key_len) = {tuple(shape)}; "
            f"got {tuple(tensor.shape)}. One {what} per sequence, (batch, query_len, key_len), goes in as {what}[:, None]"
        )
    return tensor


def as_added(allows: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to scores: 0 where it allows, -inf where it forbids."""
    return torch.zeros_like(allows, dtype=dtype).masked_fill(~allows, -torch.inf)


def kind(x: object) -> str:
    """What something is, for a message."""
    return str(x.dtype) if isinstance(x, Tensor) else f"a {type(x).__name__}"


def in_transform() -> bool:
    """Whether torch.func transforms a function just now: its tensors then hide their values and their need of gradients."""
    return torch._C._are_functorch_transforms_active()


def has_values(x: Tensor) -> bool:
    """Whether the numbers of a tensor can be looked at: not while something is traced or transformed, nor of a fake tensor."""
    return type(x) is Tensor and not x.is_meta and not torch.compiler.is_compiling() and not in_transform()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which products keep the dtype of their tensors."""
    if not torch.amp.is_autocast_available(device.type):  # as on the meta device
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
