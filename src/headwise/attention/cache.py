"""Keys and values kept between the steps of decoding. A cache belongs to one layer and is changed in place."""

from __future__ import annotations

import torch
from torch import Tensor


class _Cache:
    key: Tensor | None = None
    value: Tensor | None = None

    @property
    def length(self) -> int:
        """How many keys are held."""
        return 0 if self.key is None else self.key.shape[-2]

    def hold(self, key: Tensor, value: Tensor) -> None:
        """Keeps keys and values, (*batch, kv_heads, length, head_dim), instead of what was held."""
        self.key, self.value = key, value

    def reorder(self, index: Tensor) -> None:
        """Row b of the first batch dimension becomes what row index[b] was: the surviving beams."""
        if self.key is not None and self.value is not None:
            self.key, self.value = self.key.index_select(0, index), self.value.index_select(0, index)

    def reset(self) -> None:
        """Forgets everything."""
        self.key = self.value = None


class Growing(_Cache):
    """For self-attention: new keys and values are appended to those of earlier steps."""

    def with_new(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What is held, and the new after it; held only once the call has succeeded (``hold``)."""
        if self.key is None or self.value is None:
            return key, value
        return torch.cat([self.key, key], dim=-2), torch.cat([self.value, value], dim=-2)


class Cross(_Cache):
    """For cross-attention: the other sequence is projected in the first step and kept."""
