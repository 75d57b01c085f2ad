"""How the next token is chosen, over anything that says how probable each is: greedy, beam and sampling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Integers = Sequence[int]


@runtime_checkable
class Steps(Protocol):
    """A model in the middle of generating, one row per hypothesis."""

    def advance(self, tokens: Tensor) -> Tensor:
        """Reads the newest token of every row, (rows, 1); log-probabilities of the next, (rows, vocab_size). What must not be
        said has -inf, and keeps its share."""
        ...

    def reorder(self, index: Tensor) -> None:
        """Row r becomes what row index[r] was."""
        ...


@dataclass
class Hypothesis:
    """Generated tokens, without prompt, start and end tokens, and their log-probability (a beam's is divided by its length
    penalty). ended: an end token came; False where the limit cut it off."""

    tokens: list[int]
    score: float
    ended: bool


class Search(ABC):
    """How the next token is chosen. ``rows``: hypotheses that are followed at a time for every input."""

    rows: int = 1

    @abstractmethod
    def run(self, steps: Steps, start: Tensor, ends: Integers, limits: Integers) -> list[Hypothesis]:
        """One hypothesis per input, from tokens ``start`` (inputs,) to one of ``ends`` or its limit."""


class _OneByOne(Search):
    """A search that follows one hypothesis per input."""

    @abstractmethod
    def chooser(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The function from log-probabilities (rows, vocab_size) to tokens (rows,)."""

    @torch.no_grad()
    def run(self, steps: Steps, start: Tensor, ends: Integers, limits: Integers) -> list[Hypothesis]:
        limit, end = (torch.tensor(list(numbers), device=start.device) for numbers in (limits, ends))
        tokens, choose = start[:, None], self.chooser(start.device)
        total, (done, ended) = torch.zeros_like(start, dtype=torch.float32), torch.zeros_like(start.expand(2, -1)).bool()
        while not done.all():
            log_p = steps.advance(tokens[:, -1:])
            token = choose(log_p)
            total += log_p.gather(1, token[:, None])[:, 0].masked_fill(done, 0.0)
            tokens = torch.cat([tokens, torch.where(done, tokens[:, -1], token)[:, None]], dim=1)
            ended |= ~done & torch.isin(token, end)
            done |= ended | (tokens.shape[1] > limit)
        rows = zip(tokens[:, 1:].tolist(), total.tolist(), ended.tolist(), limits, strict=True)
        return [Hypothesis(_until(row[:most], ends), score, stopped) for row, score, stopped, most in rows]


@dataclass(frozen=True)
class Greedy(_OneByOne):
    """The most probable token at every step."""

    def chooser(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        return lambda log_p: log_p.argmax(dim=-1)


@dataclass(frozen=True)
class Sample(_OneByOne):
    """A random token at every step, from p^(1 / temperature), normalised, of which the ``top_k`` most probable tokens (and
    what is as probable as the last of them) are kept, and of those as few of the most probable as hold at least ``top_p``
    (Holtzman et al. 2020). seed: of the random numbers; None = torch's own. score is log P under the model itself."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a number above 0 (most probable: Greedy()); got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected at least 1; got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1]; got {self.top_p}")

    def chooser(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        generator = None if self.seed is None else torch.Generator(device).manual_seed(self.seed)
        return lambda log_p: torch.multinomial(self.kept(log_p), 1, generator=generator)[:, 0]

    def kept(self, log_p: Float[Tensor, "rows vocab_size"]) -> Float[Tensor, "rows vocab_size"]:
        """The distribution that is drawn from."""
        log_p = log_p / self.temperature
        if self.top_k is not None:
            least = log_p.topk(min(self.top_k, log_p.shape[-1]), dim=-1).values[:, -1:]
            log_p = log_p.masked_fill(log_p < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:  # all: rounding must not cut the tail off
            ordered, order = log_p.log_softmax(dim=-1).exp().sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(dim=-1) - ordered  # the share of the more probable ones
            log_p = log_p.masked_fill((before >= self.top_p).scatter(1, order, before >= self.top_p), -torch.inf)
        return log_p.log_softmax(dim=-1).exp()


@dataclass(frozen=True)
class Beam(Search):
    """The best of ``width`` hypotheses kept at every step, for every input.

    Hypotheses are compared by log P / ((offset + length) / (offset + 1))^length_penalty, the end token counted: offset 5 is
    that of Wu et al. 2016 (Vaswani et al. use width 4 and 0.6), offset 0 that of fairseq and transformers. An input is done
    when ``width`` hypotheses have ended (transformers: early_stopping=True) or at its limit, where the best unfinished one
    counts if none has ended (transformers: the unfinished compete with the ended). No input depends on the others.
    """

    width: int = 4
    length_penalty: float = 0.6
    offset: float = 5.0

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width: expected at least 1; got {self.width}")

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.width

    @torch.no_grad()
    def run(self, steps: Steps, start: Tensor, ends: Integers, limits: Integers) -> list[Hypothesis]:
        width, inputs, end = self.width, len(start), torch.tensor(list(ends), device=start.device)
        tokens = start.repeat_interleave(width)[:, None]
        alive = torch.full((inputs, width), -torch.inf, device=start.device)
        alive[:, 0] = 0.0  # all beams start alike: only one may branch
        found: list[list[Hypothesis]] = [[] for _ in limits]
        first = torch.arange(inputs, device=start.device)[:, None] * width  # the row of each input's first beam
        for length in range(1, max(limits) + 1):
            penalty = ((self.offset + length) / (self.offset + 1)) ** self.length_penalty
            step = steps.advance(tokens[:, -1:])
            vocab_size = step.shape[-1]
            total = (alive[:, :, None] + step.view(inputs, width, vocab_size)).flatten(1)
            most = min((1 + len(ends)) * width, total.shape[1])  # so many that width of them go on
            score, flat = total.topk(most, dim=1)
            row, token = first + flat // vocab_size, flat % vocab_size
            ending = torch.isin(token, end)
            for i, rank in ending[:, :width].nonzero().tolist():
                if len(found[i]) < width and length <= limits[i] and score[i, rank] > -torch.inf:
                    found[i].append(Hypothesis(tokens[row[i, rank], 1:].tolist(), score[i, rank].item() / penalty, True))
            alive, keep = score.masked_fill(ending, -torch.inf).topk(width, dim=1)
            row, token = row.gather(1, keep).flatten(), token.gather(1, keep).flatten()
            tokens = torch.cat([tokens[row], token[:, None]], dim=1)
            for i, limit in enumerate(limits):
                if length == limit and not found[i]:
                    found[i].append(Hypothesis(tokens[i * width, 1:].tolist(), alive[i, 0].item() / penalty, False))
            if all(len(ended) == width or length >= limit for ended, limit in zip(found, limits, strict=True)):
                break
            steps.reorder(row)
        return [max(hypotheses, key=lambda hypothesis: hypothesis.score) for hypotheses in found]


def _until(tokens: list[int], ends: Integers) -> list[int]:
    return next((tokens[:i] for i, token in enumerate(tokens) if token in ends), tokens)
