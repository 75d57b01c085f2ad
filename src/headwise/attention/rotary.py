"""Rotary positions, and the ways to stretch them beyond the length they were trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Scaling(ABC):
    """How rotary frequencies change when a model trained on short texts reads long ones. ``attention_factor`` multiplies
    the rotated query and key."""

    attention_factor: float = 1.0

    @abstractmethod
    def frequencies(self, base: float, dim: int, device: torch.device) -> Float[Tensor, " pairs"]:
        """The angle per position of every pair of channels, dim / 2 numbers."""


def _unscaled(base: float, dim: int, device: torch.device) -> Tensor:
    return base ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)


@dataclass(frozen=True)
class Linear(Scaling):
    """Position interpolation (Chen et al. 2023): every position is divided by ``factor``."""

    factor: float

    def frequencies(self, base: float, dim: int, device: torch.device) -> Tensor:
        return _unscaled(base, dim, device) / self.factor


@dataclass(frozen=True)
class NTK(Scaling):
    """NTK-aware scaling (bloc97 2023): base' = base * factor^(dim / (dim - 2)). The fastest pair keeps its frequency, the
    slowest is divided by ``factor``. What transformers calls "dynamic" takes the factor from the length of the text at hand:
    factor * length / trained_length - (factor - 1)."""

    factor: float

    def frequencies(self, base: float, dim: int, device: torch.device) -> Tensor:
        return _unscaled(base * self.factor ** (dim / (dim - 2)), dim, device)


@dataclass(frozen=True)
class YaRN(Scaling):
    """YaRN (Peng et al. 2023). With r = original_max_position_embeddings * frequency / 2 pi turns over the trained length,
    pairs that turn more than ``beta_fast`` times keep their frequency, those that turn less than ``beta_slow`` times are
    divided by ``factor``, and a ramp over the pairs lies between. ``attention_factor``: 0.1 ln(factor) + 1 if not given.
    The ends of the ramp are whole pairs, as in transformers (truncate=True)."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.attention_factor is None:
            object.__setattr__(self, "attention_factor", 0.1 * log(self.factor) + 1 if self.factor > 1 else 1.0)

    def frequencies(self, base: float, dim: int, device: torch.device) -> Tensor:
        plain = _unscaled(base, dim, device)
        low, high = (self._pair(turns, base, dim) for turns in (self.beta_fast, self.beta_slow))
        low, high = max(int(low // 1), 0), min(int(-(-high // 1)), dim - 1)
        ramp = ((torch.arange(dim // 2, device=device) - low) / max(high - low, 0.001)).clamp(0, 1)
        return plain * (1 - ramp) + plain / self.factor * ramp

    def _pair(self, turns: float, base: float, dim: int) -> float:
        """The pair, as a fraction, that turns so often over the trained length."""
        return dim * log(self.original_max_position_embeddings / (turns * 2 * pi)) / (2 * log(base))


@dataclass(frozen=True)
class Llama3(Scaling):
    """The scaling of Llama 3.1: by wavelength 2 pi / frequency, pairs shorter than original_max_position_embeddings /
    high_freq_factor keep their frequency, those longer than original_max_position_embeddings / low_freq_factor are divided
    by ``factor``, and between them the two are mixed linearly in 1 / wavelength."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def frequencies(self, base: float, dim: int, device: torch.device) -> Tensor:
        plain = _unscaled(base, dim, device)
        turns = self.original_max_position_embeddings * plain / (2 * pi)
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return plain * kept + plain / self.factor * (1 - kept)


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (RoPE, Su et al. 2021): pairs of channels of query and key turn by an angle that grows with the
    position.

        (a, b) -> (a cos t - b sin t, b cos t + a sin t)      t = position * theta_m,   theta_m = base^(-2m / dim)

    for pair m of the ``dim`` channels that turn, so that q_i . k_j depends on i - j alone. The paper's Theta is 1 / base.

    interleaved=False (Llama, GPT-NeoX in transformers) pairs channel m with m + dim/2, the two halves; interleaved=True (the
    paper, GPT-J, Meta's own Llama files) pairs 2m with 2m + 1. Weights trained with one do not fit the other. dim: how many
    leading channels turn (None = all of them; a part in GPT-NeoX and Phi). scaling: ``Linear``, ``NTK``, ``YaRN`` or
    ``Llama3``, for texts longer than those trained on. Angles are computed in float32.

    Raises ValueError where dim is odd or wider than a head.
    """

    base: float = 10000.0
    dim: int | None = None
    interleaved: bool = False
    scaling: Scaling | None = None

    def rotate(
        self, x: Float[Tensor, "*batch heads length head_dim"], positions: Int[Tensor, " length"]
    ) -> Float[Tensor, "*batch heads length head_dim"]:
        """x with every vector turned to its position."""
        dim = x.shape[-1] if self.dim is None else self.dim
        if dim % 2 or not 0 < dim <= x.shape[-1]:
            raise ValueError(f"Rotary: dim must be even and at most head_dim = {x.shape[-1]}; got {dim}")
        frequencies = _unscaled if self.scaling is None else self.scaling.frequencies
        angle = positions[:, None] * frequencies(self.base, dim, x.device)
        factor = 1.0 if self.scaling is None else self.scaling.attention_factor
        cos, sin = ((factor * part).to(x.dtype) for part in (angle.cos(), angle.sin()))
        turning, still = x[..., :dim], x[..., dim:]
        if self.interleaved:
            a, b = turning[..., 0::2], turning[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        else:
            a, b = turning.chunk(2, dim=-1)
            turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
        return torch.cat([turned, still], dim=-1)


@dataclass(frozen=True)
class AfterRotation:
    """``qk_norm=AfterRotation(nn.RMSNorm)``: the norm of queries and keys acts after they were turned, as in Hunyuan; without
    it, before, as in Qwen3 and Gemma 3. The two differ wherever the norm has a weight of its own per channel."""

    norm: Callable[[int], nn.Module]
