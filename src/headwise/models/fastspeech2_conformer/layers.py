"""What FastSpeech 2's stacks and predictors are made of: everything that sees its neighbours sees no padding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import TransformerXL, sinusoids
from headwise.blocks.conformer import ConformerLayer, Convolution, Real, without_padding
from headwise.blocks.layers import Hidden, PostNorm, PreNorm
from headwise.models.fastspeech2_conformer.config import FastSpeech2ConformerConfig


class FeedForward(nn.Module):
    """W_2 * dropout(relu(W_1 * x + b_1)) + b_2, both convolutions over time (Ren et al. 2019)."""

    def __init__(self, embed_dim: int, hidden_dim: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Conv1d(embed_dim, hidden_dim, kernel_size, padding=kernel_size // 2)
        self.contract = nn.Conv1d(hidden_dim, embed_dim, kernel_size, padding=kernel_size // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Hidden, real: Real | None = None) -> Hidden:
        x = self.dropout(torch.relu(self.expand(without_padding(x.mT, real))))
        return self.contract(without_padding(x, real)).mT


class Without(PostNorm):
    """A step that is left out."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def forward(self, x: Hidden, sublayer: Callable[[Tensor], Tensor]) -> Hidden:
        return x


class Layer(ConformerLayer):
    """A Conformer's layer whose feed-forwards see their neighbours."""

    def feed(self, number: int, x: Hidden, real: Real | None) -> Hidden:
        return self.feed_forwards[number](x, real)


class Entrance(nn.Module):
    """What enters a stack: dropout(sqrt(embed_dim) x), and beside it the sinusoids r_d of signed distances, in training what
    dropout leaves of them, drawn once for all layers."""

    left: Tensor | None

    def __init__(self, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.embed_dim, self.dropout, self.left = embed_dim, nn.Dropout(dropout), None

    def forward(self, x: Hidden) -> Hidden:
        x = self.dropout(x * self.embed_dim**0.5)
        if self.training:  # the rows r_(n - 1), ..., r_(1 - n)
            distances = torch.arange(x.shape[1] - 1, -x.shape[1], -1, device=x.device)
            self.left = self.dropout(sinusoids(distances, self.embed_dim))
        return x

    def of_distances(self, back: Tensor, dtype: torch.dtype) -> Float[Tensor, "distances embed_dim"]:
        if self.left is None or not self.training:
            return sinusoids(back, self.embed_dim, dtype)
        farthest = self.left.shape[0] // 2
        return self.left[(farthest - back).clamp(0, 2 * farthest)].to(dtype)


class Distances(TransformerXL):
    """Relative positions by the sinusoids that ``entrance`` has left."""

    def __init__(self, embed_dim: int, num_heads: int, entrance: Entrance) -> None:
        super().__init__(embed_dim, num_heads)
        self.entrance = entrance

    def of_distances(self, back: Tensor, dtype: torch.dtype) -> Float[Tensor, "distances embed_dim"]:
        return self.entrance.of_distances(back, dtype)


def layer(config: FastSpeech2ConformerConfig, side: str, entrance: Entrance) -> ConformerLayer:
    """One of the encoder's or the decoder's: x <- norm(x + f(x)) for f a half of a feed-forward, attention, convolution and
    the other half, or x + f(norm(x)); a norm ends it."""

    def of_side(name: str):
        return getattr(config, f"{side}_{name}")

    size, macaron, rate = config.hidden_size, config.use_macaron_style_in_conformer, of_side("dropout_rate")
    residual, half = (PreNorm if of_side("normalize_before") else PostNorm), 0.5 if macaron else 1.0
    feed_forward = partial(FeedForward, size, of_side("linear_units"), config.positionwise_conv_kernel_size, rate)
    heads = of_side("num_attention_heads")
    return Layer(
        [
            residual(nn.LayerNorm(size), rate, half) if macaron else Without(),
            *(residual(nn.LayerNorm(size), rate, weight) for weight in (1.0, 1.0, half)),
        ],
        feed_forwards=(feed_forward() if macaron else nn.Identity(), feed_forward()),
        self_attention=MultiHeadAttention(
            size,
            heads,
            position=Distances(size, heads, entrance),
            dropout=of_side("attention_dropout_rate"),
        ),
        convolution=Convolution(size, of_side("kernel_size"), bias=config.convolution_bias),
        norm=nn.LayerNorm(size),
    )


class Predictor(nn.Module):
    """One number per token: (convolution over time, relu, norm, dropout) times, then w . x + b; zero at padding."""

    def __init__(self, config: FastSpeech2ConformerConfig, what: str, dropout: float) -> None:
        super().__init__()
        channels, num_layers, kernel_size = (
            getattr(config, f"{what}_predictor_{name}") for name in ("channels", "layers", "kernel_size")
        )
        widths = [config.hidden_size] + [channels] * (num_layers - 1)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, kernel_size, padding=kernel_size // 2) for width in widths)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in widths)
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(channels, 1)

    def forward(self, x: Hidden, real: Real) -> Float[Tensor, "batch length 1"]:
        x = x.mT
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.dropout(norm(torch.relu(convolution(without_padding(x, real))).mT).mT)
        return self.linear(x.mT).masked_fill(~real[..., None], 0.0)


def repeated(
    x: Float[Tensor, "batch length embed_dim"], times: Int[Tensor, "batch length"], length: int
) -> Float[Tensor, "batch frames embed_dim"]:
    """Row i times[i] times, one after the other; zeros from there to ``length``."""
    places = torch.arange(length, device=x.device).expand(x.shape[0], -1).contiguous()
    source = torch.searchsorted(times.cumsum(dim=1), places, right=True)[..., None]
    rows = x.gather(1, source.clamp(max=x.shape[1] - 1).expand(-1, -1, x.shape[2]))
    return rows.masked_fill(source == x.shape[1], 0.0)


def begin(module: nn.Module) -> None:
    """As the reference begins: what every layer adds is of the order of what it reads."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv1d):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            bound = (module.groups / (module.in_channels * module.kernel_size[0])) ** 0.5
            nn.init.uniform_(module.bias, -bound, bound)
