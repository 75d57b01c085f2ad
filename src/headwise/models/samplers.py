"""How noise is put in, and taken away step by step: the schedule of diffusion, and the samplers that go back along it.

x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise,   a_t = (1 - beta_0) ... (1 - beta_t)        Ho et al. 2020
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """How much noise there is at each of ``steps`` steps of training: beta_t rises evenly from beta_start to beta_end (Ho et
    al. 2020). ``signal`` is a_t, the share of the picture's variance that is left."""

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or not 2 <= self.steps <= 10**6:
            raise ValueError(f"steps: expected an integer from 2 to 1,000,000; got {self.steps!r}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"expected 0 < beta_start <= beta_end < 1; got {self.beta_start} and {self.beta_end}")

    def signal(self) -> Float[Tensor, " steps"]:  # in float64: in float32 the last digits of 1 - a_0 would be rounding
        return (1 - torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)).cumprod(dim=0)


@dataclass
class Prediction:
    """What a model says about x_t: the noise, and where the log-variance of a step back lies between the least and the most
    that it can be, -1 ... 1 (Nichol and Dhariwal 2021, section 3.1); None where it does not say."""

    noise: Tensor
    between: Tensor | None

    def clean(self, x: Tensor, signal: float | Tensor, clip: float | None = None) -> Tensor:
        """x_0 = (x_t - sqrt(1 - a_t) noise) / sqrt(a_t), what x_t then is a noisy version of."""
        clean = (x - (1 - signal) ** 0.5 * self.noise) / signal**0.5
        return clean if clip is None else clean.clamp(-clip, clip)


class Sampler(ABC):
    """How noise is taken away, step by step. clip: the predicted x_0 is kept in [-clip, clip]; 1.0 suits pixels."""

    steps: int
    clip: float | None

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps: expected an integer from 1; got {self.steps!r}")
        if self.clip is not None and not (isinstance(self.clip, int | float) and self.clip > 0):
            raise ValueError(f"clip: expected a number above 0, or None; got {self.clip!r}")

    @abstractmethod
    def timesteps(self, steps: int) -> list[int]:
        """Those of a schedule's steps that are gone through, the noisiest first."""

    @abstractmethod
    def step(self, x: Tensor, prediction: Prediction, signal: float, after: float, draw: Callable[[], Tensor]) -> Tensor:
        """From x_t to the next: ``signal`` is a_t, ``after`` that of the next, 1.0 at the end; ``draw`` makes N(0, 1)."""


@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling (Ho et al. 2020, algorithm 2): from x_t to x_s by x_s ~ N(mean, variance I), with b = 1 - a_t / a_s,

        mean = sqrt(a_s) b / (1 - a_t) x_0 + sqrt(a_t / a_s) (1 - a_s) / (1 - a_t) x_t
        log variance = v log b + (1 - v) log(b (1 - a_s) / (1 - a_t))

    v is what a model with twice as many channels says ((between + 1) / 2, "learned_range"), and 0 elsewhere ("fixed_small").
    Steps are spread evenly over 0 ... T - 1, both among them, and rounded (Nichol and Dhariwal 2021; "linspace" in diffusers).
    """

    steps: int = 250
    clip: float | None = None

    def timesteps(self, steps: int) -> list[int]:
        return torch.linspace(steps - 1, 0, self.steps, dtype=torch.float64).round().long().tolist()

    def step(self, x: Tensor, prediction: Prediction, signal: float, after: float, draw: Callable[[], Tensor]) -> Tensor:
        beta, rest = 1 - signal / after, (1 - after) / (1 - signal)
        clean = prediction.clean(x, signal, self.clip)
        mean = after**0.5 * beta / (1 - signal) * clean + (signal / after) ** 0.5 * rest * x
        if after == 1:
            return mean
        if prediction.between is None:
            return mean + (beta * rest) ** 0.5 * draw()
        v = (prediction.between + 1) / 2
        return mean + ((v * math.log(beta) + (1 - v) * math.log(beta * rest)) / 2).exp() * draw()


@dataclass(frozen=True)
class DDIM(Sampler):
    """Implicit sampling (Song et al. 2021, equation 12), from x_t to x_s, with noise as x_0 and x_t have it:

        x_s = sqrt(a_s) x_0 + sqrt(1 - a_s - sigma^2) noise + sigma N(0, 1)
        sigma^2 = eta^2 (1 - a_s) / (1 - a_t) (1 - a_t / a_s)

    eta: 0 = no noise on the way, 1 = as much as ``DDPM``. A learned variance is not used. Step i is floor(i T / steps)
    ("leading" in diffusers, which for a ``steps`` that does not divide T leaves out the noisiest).
    """

    steps: int = 50
    eta: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.eta, int | float) or not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1]; got {self.eta!r}")

    def timesteps(self, steps: int) -> list[int]:
        return [i * steps // self.steps for i in reversed(range(self.steps))]

    def step(self, x: Tensor, prediction: Prediction, signal: float, after: float, draw: Callable[[], Tensor]) -> Tensor:
        clean = prediction.clean(x, signal, self.clip)
        noise = prediction.noise if self.clip is None else (x - signal**0.5 * clean) / (1 - signal) ** 0.5
        sigma = self.eta * ((1 - after) / (1 - signal) * (1 - signal / after)) ** 0.5
        x = after**0.5 * clean + max(1 - after - sigma**2, 0.0) ** 0.5 * noise
        return x + sigma * draw() if sigma > 0 else x
