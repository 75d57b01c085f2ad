"""A layer (attention and feed-forward, each within a residual), and a stack of them: all that Transformers have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.attention.cache import Cross, Growing
from headwise.attention.masks import Mask
from headwise.attention.module import MultiHeadAttention

Hidden = Float[Tensor, "batch length embed_dim"]


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training 0 with probability ``rate``, else x / (1 - rate), per sequence."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "*batch length embed_dim"]) -> Float[Tensor, "*batch length embed_dim"]:
        if not self.training or self.rate == 0:
            return x
        drawn = torch.rand(*x.shape[:-2], 1, 1, dtype=x.dtype, device=x.device)
        return x / (1 - self.rate) * (drawn >= self.rate)


class PostNorm(nn.Module):
    """x <- norm(x + weight dropout(sublayer(x))), as published in 2017 with weight 1; nothing follows the last layer.

    dropout: a rate, or what else drops parts of a sublayer's output. weight: 1/2 where a layer has two feed-forwards.
    """

    def __init__(self, norm: nn.Module, dropout: float | nn.Module = 0.0, weight: float = 1.0) -> None:
        super().__init__()
        self.norm, self.dropout = norm, dropout if isinstance(dropout, nn.Module) else nn.Dropout(dropout)
        self.weight = weight

    def forward(self, x: Hidden, sublayer: Callable[[Tensor], Tensor]) -> Hidden:
        return self.leave(x, sublayer(self.enter(x)))

    def enter(self, x: Hidden) -> Hidden:
        """What the sublayer reads."""
        return x

    def leave(self, x: Hidden, y: Hidden) -> Hidden:
        """What goes on, where the sublayer has made y."""
        return self.norm(torch.add(x, self.dropout(y), alpha=self.weight))


class PreNorm(PostNorm):
    """x <- x + weight dropout(sublayer(norm(x))); a norm follows the last layer."""

    def enter(self, x: Hidden) -> Hidden:
        return self.norm(x)

    def leave(self, x: Hidden, y: Hidden) -> Hidden:
        return torch.add(x, self.dropout(y), alpha=self.weight)


@dataclass
class LayerCache:
    """What one layer keeps between the steps of decoding; ``cross`` stays empty where the layer sees one sequence."""

    own: Growing = field(default_factory=Growing)
    cross: Cross = field(default_factory=Cross)


class Layer(nn.Module):
    """Self-attention, attention to another sequence where the layer has one, then feed-forward.

    residual: makes what each of them stands in, ``PostNorm`` or ``PreNorm`` around a norm.
    """

    def __init__(
        self,
        residual: Callable[[], PostNorm],
        *,
        self_attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention | None = None,
        feed_forward: nn.Module,
    ) -> None:
        super().__init__()
        self.self_attention, self.cross_attention, self.feed_forward = self_attention, cross_attention, feed_forward
        self.residuals = nn.ModuleList(residual() for _ in range(2 if cross_attention is None else 3))

    def forward(
        self,
        x: Hidden,
        mask: Mask | None = None,
        memory: Tensor | None = None,
        memory_mask: Mask | None = None,
        cache: LayerCache | None = None,
    ) -> Hidden:
        own, cross = (None, None) if cache is None else (cache.own, cache.cross)
        first, *between, last = self.residuals
        x = first(x, lambda x: self.self_attention(x, mask=mask, cache=own))
        for residual in between:
            x = residual(x, lambda x: self.cross_attention(x, memory, mask=memory_mask, cache=cross))  # type: ignore[misc]
        return last(x, self.feed_forward)


class Stack(nn.Module):
    """Layers one after the other, then ``norm`` (after pre-norm layers).

    layer_drop: in training each layer is left out with this probability (LayerDrop, Fan et al. 2020).
    """

    def __init__(self, layers: Iterable[nn.Module], norm: nn.Module | None = None, layer_drop: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm, self.layer_drop = nn.Identity() if norm is None else norm, layer_drop

    def forward(
        self,
        x: Hidden,
        mask: Mask | None,
        memory: Tensor | None = None,
        memory_mask: Mask | None = None,
        caches: Sequence[LayerCache] | None = None,
    ) -> Hidden:
        """mask: about the sequence itself; memory, memory_mask: the other sequence; caches: one per layer, changed in place."""
        for i, layer in enumerate(self.layers):
            if not self.training or self.layer_drop == 0 or torch.rand(()) >= self.layer_drop:
                x = layer(x, mask, memory, memory_mask, None if caches is None else caches[i])
        return self.norm(x)

    def make_cache(self, new: Callable[[], Growing] = Growing) -> list[LayerCache]:
        """Empty caches, one per layer."""
        return [LayerCache(new()) for _ in self.layers]


def normal_(model: nn.Module, std: float) -> None:
    """Weights of all projections, convolutions and embeddings from N(0, std^2), their biases zero, as BERT and GPT begin."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Embedding):
                if module.padding_idx is not None:
                    nn.init.zeros_(module.weight[module.padding_idx])
            elif module.bias is not None:
                nn.init.zeros_(module.bias)
