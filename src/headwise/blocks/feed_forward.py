"""The feed-forward sublayer: the same small network at every position."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Hidden = Float[Tensor, "*batch length embed_dim"]
Activation = Callable[[Tensor], Tensor]

_gelu_tanh = partial(functional.gelu, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


# By the names that config files use. The three gelus differ by up to 5e-4 (tanh) and 2e-2 (quick).
ACTIVATIONS: dict[str, Activation] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Activation:
    """The function of that name; ValueError, with the names there are, for another."""
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation {name!r}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class FeedForward(nn.Module):
    """W_2 dropout(activation(W_1 x + b_1)) + b_2, at every position alike."""

    def __init__(
        self, embed_dim: int, hidden_dim: int, activation: Activation = torch.relu, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(embed_dim, hidden_dim, bias), nn.Linear(hidden_dim, embed_dim, bias)
        self.activation, self.dropout = activation, nn.Dropout(dropout)

    def forward(self, x: Hidden) -> Hidden:
        return self.contract(self.dropout(self.activation(self.expand(x))))


class GatedFeedForward(nn.Module):
    """W_2 dropout(activation(W_g x + b_g) * (W_1 x + b_1)) + b_2 (Shazeer 2020): with silu SwiGLU, with gelu GEGLU."""

    def __init__(
        self, embed_dim: int, hidden_dim: int, activation: Activation, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.gate, self.linear = nn.Linear(embed_dim, hidden_dim, bias), nn.Linear(embed_dim, hidden_dim, bias)
        self.contract = nn.Linear(hidden_dim, embed_dim, bias)
        self.activation, self.dropout = activation, nn.Dropout(dropout)

    def forward(self, x: Hidden) -> Hidden:
        return self.contract(self.dropout(self.activation(self.gate(x)) * self.linear(x)))
