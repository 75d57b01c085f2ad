"""The ways to evaluate the formula, and the choice between them: what is promised and what runs cannot differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from headwise.attention import formula, sdpa
from headwise.attention.formula import Call


@dataclass(frozen=True)
class Backend:
    """``refuse(call, lse_gradient)`` says why it cannot evaluate a call, or None; ``attend(call, lse)`` evaluates it."""

    name: str
    refuse: Callable[[Call, bool], str | None]
    attend: Callable[[Call, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Choice:
    """Which backend runs a call, and why each faster one does not."""

    backend: str
    refused: dict[str, str]


FASTEST_FIRST = (
    Backend("sdpa", sdpa.refuse, sdpa.attend),
    Backend("formula", lambda call, lse_gradient: None, formula.attend),
)
backends = tuple(backend.name for backend in reversed(FASTEST_FIRST))


def choose(call: Call, name: str | None = None, lse_gradient: bool = False) -> Backend:
    """The fastest backend that is exact for the call, or the one named, or an error saying why it cannot."""
    if name is not None and name not in backends:
        raise ValueError(f"backend: expected one of {', '.join(backends)}; got {name!r}")
    for backend in FASTEST_FIRST:
        if name in (None, backend.name):
            reason = backend.refuse(call, lse_gradient)
            if reason is None:
                return backend
            if name is not None:
                raise ValueError(f"backend {name!r} cannot evaluate this call: {reason}")
    raise AssertionError("the formula takes every call")


def explain(call: Call, name: str | None = None, lse_gradient: bool = False) -> Choice:
    """What ``choose`` takes, as data."""
    chosen = choose(call, name, lse_gradient)
    faster = FASTEST_FIRST[: FASTEST_FIRST.index(chosen)]
    reasons = {backend.name: backend.refuse(call, lse_gradient) or f"{chosen.name!r} was asked for" for backend in faster}
    return Choice(chosen.name, reasons)
