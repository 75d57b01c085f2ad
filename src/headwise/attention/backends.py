"""The ways to evaluate the formula, and the choice between them: what is promised and what runs cannot differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from headwise.attention import blocks, flex, formula, sdpa
from headwise.attention.formula import Call


@dataclass(frozen=True)
class Backend:
    """``refuse(call)`` says why it cannot evaluate a call, ``slower(call)`` why it would not be the fastest, each a sentence
    or None; ``attend(call, lse)`` evaluates it."""

    name: str
    refuse: Callable[[Call], str | None]
    slower: Callable[[Call], str | None]
    attend: Callable[[Call, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Choice:
    """Which backend runs a call, and why each faster one does not."""

    backend: str
    refused: dict[str, str]


def _never(call: Call) -> None:
    return None


FASTEST_FIRST = (
    Backend("flex", flex.refuse, flex.slower, flex.attend),
    Backend("blocks", blocks.refuse, blocks.slower, blocks.attend),
    Backend("sdpa", sdpa.refuse, _never, sdpa.attend),
    Backend("formula", _never, _never, formula.attend),
)
backends = ("formula", "sdpa", "blocks", "flex")


def choose(call: Call, name: str | None = None) -> Backend:
    """The fastest backend that is exact for the call, or the one named, or an error saying why it cannot."""
    if name is None:
        return next(backend for backend in FASTEST_FIRST if not backend.refuse(call) and not backend.slower(call))
    named = [backend for backend in FASTEST_FIRST if backend.name == name]
    if not named:
        raise ValueError(f"backend: expected one of {', '.join(backends)}; got {name!r}")
    reason = named[0].refuse(call)
    if reason is not None:
        raise ValueError(f"backend {name!r} cannot evaluate this call: {reason}")
    return named[0]


def explain(call: Call, name: str | None = None) -> Choice:
    """What ``choose`` takes, as data."""
    chosen = choose(call, name)
    faster = FASTEST_FIRST[: FASTEST_FIRST.index(chosen)]
    reasons = {each.name: each.refuse(call) or each.slower(call) or f"{chosen.name!r} was asked for" for each in faster}
    return Choice(chosen.name, reasons)
