"""What a call of attention leaves behind when somebody looks: the one record that observers, statistics and pictures share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwise.attention import blocks, formula
from headwise.attention.formula import Call, Stage
from headwise.attention.masks import Mask
from headwise.attention.tiles import Select, without_autocast

# Called with (module, call, head outputs, lse) after every call of a module. None = nobody looks: a plain global, so that a
# compiled graph is guarded by it and carries nothing of it.
observer: Callable[[Any, Call, Tensor, Tensor], None] | None = None


def emit(module: Any, call: Call, head_outputs: Tensor, lse: Tensor | None) -> None:
    """Hands a call to whoever looks."""
    if observer is not None and lse is not None:
        observer(module, call, head_outputs, lse)


@dataclass(frozen=True, eq=False)
class Recorded:
    """One recorded call: its tensors, detached, and everything that follows from them, computed when asked for.

    query (*batch, heads, query_len, head_dim) and key as they met, after any rotation; value; head_outputs
    (*batch, heads, query_len, value_dim) before gates and the output projection; lse (*batch, heads, query_len), natural log.
    """

    call: Call
    head_outputs: Tensor
    lse: Tensor

    @property
    def query(self) -> Tensor:
        return self.call.query

    @property
    def key(self) -> Tensor:
        return self.call.key

    @property
    def value(self) -> Tensor:
        return self.call.value

    @property
    def mask(self) -> Mask | None:
        return self.call.mask

    @property
    def num_heads(self) -> int:
        return self.call.query.shape[-3]

    def weights(
        self,
        batch: int | None = None,
        head: int | None = None,
        rows: Select | None = None,
        columns: Select | None = None,
        stage: Stage = "weights",
    ) -> Tensor:
        """Exact weights (before dropout) or scores of a tile, (*batch, heads, rows, columns); batch and head select one.

        Whole rows are the formula's softmax; where columns are chosen, p = exp(s - lse), so that a tile costs only itself.
        ``batch`` indexes the first batch dimension.
        """
        tile = self.call.tile(rows, columns)
        with torch.no_grad(), without_autocast(self.query.device):
            if stage != "weights" or columns is None:
                found = formula.weights(self.call, tile, stage)
            else:
                lse = self.lse[..., tile.rows].unsqueeze(-1)
                s = formula.scores(self.call, tile)
                found = (s - lse.masked_fill(lse == -torch.inf, 0.0)).exp().clamp(max=1.0)
        found = found if head is None else found[..., head, :, :]
        return found if batch is None else found[batch]

    def allowed(self, rows: Select | None = None, columns: Select | None = None) -> Tensor:
        """Which pairs of a tile may attend, bool (*batch, heads, rows, columns)."""
        tile = self.call.tile(rows, columns)
        return formula.allowed(self.call, tile).expand(*self.lse.shape[:-1], tile.num_rows, tile.num_columns)

    @torch.no_grad()
    def whole_rows(
        self, limit: int, over: Callable[[Iterable[Any]], Iterable[Any]] = iter
    ) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """All rows, about ``limit`` weights at a time: rows, the columns they can reach, p there and log p (finite: where p is
        0, merely very negative). over: what goes through the blocks, such as a progress bar."""
        lowest = torch.finfo(self.lse.dtype).min
        width = max(columns.stop - columns.start for _, columns in blocks.spans(self.call, blocks.ROWS))
        size = max(1, limit // max(1, self.lse[..., :1].numel() * width))
        for rows, columns in over(list(blocks.spans(self.call, size))):
            with without_autocast(self.query.device):
                s = formula.scores(self.call, self.call.tile(rows, columns))
                p = formula.softmax(s, self.call.sinks)
                yield rows, columns, p, s.sub_(self.lse[..., rows, None]).clamp_(min=lowest, max=0.0)
