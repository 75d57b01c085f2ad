"""Keys and values kept between the steps of decoding. A cache belongs to one layer and is changed in place."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from headwise.attention.masks import Mask, padding


class Growing:
    """For self-attention: the keys and values of every step are appended to those before, (*batch, kv_heads, length, width)."""

    key: Tensor | None = None
    value: Tensor | None = None

    @property
    def length(self) -> int:
        """How many keys are held."""
        return 0 if self.key is None else self.key.shape[-2]

    def with_new(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What is held, and the new after it; held only once the call has succeeded (``hold``)."""
        if self.key is None or self.value is None:
            return key, value
        return torch.cat([self.key, key], dim=-2), torch.cat([self.value, value], dim=-2)

    def place(self, mask: Mask | None, count: int) -> tuple[Mask | None, Int[Tensor, " count"] | None]:
        """The mask of a step with ``count`` queries, and their positions; None = at the last keys, as without a cache."""
        return mask, None

    def hold(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Keeps the keys and values of a call that has succeeded; the last of them, one for every query, are new."""
        self.key, self.value = key, value

    def reorder(self, index: Int[Tensor, " beams"]) -> None:
        """Row b of the first batch dimension becomes what row index[b] was: the surviving beams."""
        if self.key is not None and self.value is not None:
            self.key, self.value = self.key.index_select(0, index), self.value.index_select(0, index)

    def reset(self) -> None:
        """Forgets everything."""
        self.key = self.value = None


class Cross(Growing):
    """For cross-attention: the other sequence is projected in the first step and kept. A step does not know where its query
    stands, so that rules which see query positions (causal, window) have no meaning here."""

    def with_new(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return key, value


class Fixed(Growing):
    """For self-attention, in memory of a fixed size: ``max_len`` slots are written in place, so that every step has the same
    shapes and one compiled graph runs them all. Key j stands in slot j; slots not yet written are forbidden.

    Masks are about all slots: padding on the left of a prompt is ``hw.masks.padding(keep)``, keep (*batch, max_len) and True
    from the first real token on. The memory is taken by the first step and keeps its place, through ``reset`` too. A step
    that does not fit raises ValueError (inside a compiled graph an error of torch), as does one that would need gradients:
    what it attended to is overwritten by the next.
    """

    def __init__(self, max_len: int) -> None:
        if max_len < 1:
            raise ValueError(f"Fixed: expected max_len of at least 1; got {max_len}")
        self.max_len = max_len
        with torch.inference_mode(False):  # written in place, in that mode and out of it
            self._length = torch.zeros((), dtype=torch.long)

    @property
    def length(self) -> Int[Tensor, ""]:  # type: ignore[override]
        """How many keys are held: a tensor, so that the steps of a compiled graph are alike."""
        return self._length

    def with_new(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad):
            raise ValueError("hw.cache.Fixed is overwritten in place: decode under torch.no_grad(), or use hw.cache.Growing()")
        held = self._room(self.key, key), self._room(self.value, value)
        if key.device.type == "cpu" and not torch.compiler.is_compiling() and self._length + key.shape[-2] > self.max_len:
            raise ValueError(
                f"hw.cache.Fixed({self.max_len}) holds {int(self._length)} keys: {key.shape[-2]} more do not fit; "
                "make it longer, or reset it"
            )
        self.key, self.value = held
        self._length = self._length.to(key.device)
        positions = self._length + torch.arange(key.shape[-2], device=key.device)
        return self.key.index_copy_(-2, positions, key), self.value.index_copy_(-2, positions, value)

    def _room(self, held: Tensor | None, new: Tensor) -> Tensor:
        shape = (*new.shape[:-2], self.max_len, new.shape[-1])
        if held is not None and (held.shape, held.dtype, held.device) == (shape, new.dtype, new.device):
            return held
        if held is not None and self._length > 0:
            raise ValueError(f"hw.cache.Fixed: holds {tuple(held.shape)}, and this step is {tuple(new.shape)}; reset it first")
        with torch.inference_mode(False):
            return new.new_zeros(shape)

    def place(self, mask: Mask | None, count: int) -> tuple[Mask | None, Int[Tensor, " count"] | None]:
        filled = padding(self._length + count)
        positions = self._length + torch.arange(count, device=self._length.device)
        return filled if mask is None else mask & filled, positions

    def hold(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        self._length += query.shape[-2]

    def reorder(self, index: Int[Tensor, " beams"]) -> None:
        for held in (self.key, self.value):
            if held is not None:
                if len(index) != len(held):
                    raise ValueError(f"hw.cache.Fixed: reorder takes one index per row, {len(held)}; got {len(index)}")
                held.copy_(held.index_select(0, index))

    def reset(self) -> None:
        self._length.zero_()
        for held in (self.key, self.value):
            if held is not None:
                held.zero_()  # a slot without weight still counts where it holds nan: 0 * nan
