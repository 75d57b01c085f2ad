"""A Conformer's layer (Gulati et al. 2020): attention for what is far, a convolution for what is near, between two halves of a
feed-forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.masks import Mask
from headwise.attention.module import MultiHeadAttention
from headwise.blocks.feed_forward import Activation
from headwise.blocks.layers import Hidden, PostNorm

Real = Bool[Tensor, "batch length"]


def without_padding(x: Float[Tensor, "batch channels length"], real: Real | None) -> Float[Tensor, "batch channels length"]:
    """What a convolution may read: padding counts as zero, as what lies past the end does. None: all is real."""
    return x if real is None else x.masked_fill(~real[:, None], 0.0)


class Convolution(nn.Module):
    """W_2 activation(norm(depthwise(a * sigmoid(b)))) with (a, b) = W_1 x; every channel's kernel sees its own channel alone.

    kernel_size: odd, so that the middle is a place. Batch norm needs a batch, in training, of more than one value.
    """

    def __init__(self, embed_dim: int, kernel_size: int, activation: Activation = functional.silu, bias: bool = True) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size of the convolution: expected an odd number; got {kernel_size}")
        self.expand, self.contract = (
            nn.Conv1d(embed_dim, 2 * embed_dim, 1, bias=bias),
            nn.Conv1d(embed_dim, embed_dim, 1, bias=bias),
        )
        self.depthwise = nn.Conv1d(embed_dim, embed_dim, kernel_size, padding=kernel_size // 2, groups=embed_dim, bias=bias)
        self.norm, self.activation = nn.BatchNorm1d(embed_dim), activation

    def forward(self, x: Hidden, real: Real | None = None) -> Hidden:
        """real: the places that are no padding; others count as zero, as what lies past the end does. None: all count."""
        x = functional.glu(self.expand(x.mT), dim=1)
        return self.contract(self.activation(self.norm(self.depthwise(without_padding(x, real))))).mT


class ConformerLayer(nn.Module):
    """x <- x + FFN_1(x) / 2;  x <- x + MHA(x);  x <- x + Conv(x);  x <- x + FFN_2(x) / 2;  x <- norm(x).

    residuals: what each of the four stands in, ``PreNorm`` as published, with the weight of its step.
    """

    def __init__(
        self,
        residuals: Sequence[PostNorm],
        *,
        feed_forwards: tuple[nn.Module, nn.Module],
        self_attention: MultiHeadAttention,
        convolution: Convolution,
        norm: nn.Module,
    ) -> None:
        super().__init__()
        self.residuals, self.feed_forwards = nn.ModuleList(residuals), nn.ModuleList(feed_forwards)
        self.self_attention, self.convolution, self.norm = self_attention, convolution, norm

    def forward(self, x: Hidden, mask: Mask | None = None, real: Real | None = None) -> Hidden:
        """mask: about the keys of attention; real: about the places of the convolution."""
        before, attending, convolving, after = self.residuals
        x = before(x, lambda x: self.feed(0, x, real))
        x = attending.leave(x, self.attend(attending.enter(x), mask))  # type: ignore[operator]
        x = convolving.leave(x, self.convolution(convolving.enter(x), real))  # type: ignore[operator]
        return self.norm(after(x, lambda x: self.feed(1, x, real)))

    def attend(self, x: Hidden, mask: Mask | None) -> Hidden:
        return self.self_attention(x, mask=mask)

    def feed(self, number: int, x: Hidden, real: Real | None) -> Hidden:
        """real: for feed-forwards that see their neighbours."""
        return self.feed_forwards[number](x)


class Conformer(nn.Module):
    """Layers one after the other, then ``norm``.

    layer_drop: in training each layer is left out with this probability (LayerDrop, Fan et al. 2020).
    """

    def __init__(self, layers: Iterable[ConformerLayer], norm: nn.Module | None = None, layer_drop: float = 0.0) -> None:
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), nn.Identity() if norm is None else norm
        self.layer_drop = layer_drop

    def forward(self, x: Float[Tensor, "batch length embed_dim"], mask: Mask | None = None, real: Real | None = None) -> Hidden:
        for layer in self.layers:
            if not self.training or self.layer_drop == 0 or torch.rand(()) >= self.layer_drop:
                x = layer(x, mask, real)
        return self.norm(x)
