"""Generation, token by token: greedy and beam search over anything that steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Steps(Protocol):
    """A model in the middle of generating, one row per hypothesis."""

    def advance(self, tokens: Tensor) -> Tensor:
        """Reads the newest token of every row, (rows, 1), and scores the next, (rows, vocab_size)."""
        ...

    def reorder(self, index: Tensor) -> None:
        """Row r becomes what row index[r] was."""
        ...


@dataclass
class Hypothesis:
    """Generated tokens, without the start and end tokens, and their log-probability divided by the length penalty.

    ended: the end token came; False where the limit cut it off.
    """

    tokens: list[int]
    score: float
    ended: bool


@torch.no_grad()
def greedy(steps: Steps, start: int, end: int, limits: Sequence[int]) -> list[Hypothesis]:
    """The most probable token at every step, for each input until ``end`` or its limit. score: the log-probability."""
    rows, limit = len(limits), torch.tensor(limits)
    tokens = torch.full((rows, 1), start)
    total, done, ended = torch.zeros(rows), torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    while not done.all():
        best, token = steps.advance(tokens[:, -1:]).float().log_softmax(dim=-1).max(dim=-1)
        total += best.masked_fill(done, 0.0)
        tokens = torch.cat([tokens, token.masked_fill(done, end)[:, None]], dim=1)
        ended |= ~done & (token == end)
        done |= ended | (tokens.shape[1] > limit)
    rows_of_tokens = zip(tokens[:, 1:].tolist(), total.tolist(), ended.tolist(), strict=True)
    return [Hypothesis(_until(row, end), score, stopped) for row, score, stopped in rows_of_tokens]


@torch.no_grad()
def beam(steps: Steps, start: int, end: int, limits: Sequence[int], width: int, length_penalty: float) -> list[Hypothesis]:
    """The best of ``width`` hypotheses kept at every step, for every input (steps has len(limits) * width rows).

    Hypotheses are compared by log P / ((5 + length) / 6)^length_penalty, the end token counted (Wu et al. 2016; Vaswani et al.
    use width 4 and 0.6). An input is done when ``width`` hypotheses have ended or at its limit, where the best unfinished one
    counts if none has ended; it does not depend on the others.
    """
    rows = len(limits)
    tokens = torch.full((rows * width, 1), start)
    alive = torch.full((rows, width), -torch.inf)
    alive[:, 0] = 0.0  # all beams start alike: only one may branch
    found: list[list[Hypothesis]] = [[] for _ in limits]
    first = torch.arange(rows)[:, None] * width  # the row of each input's first beam
    for length in range(1, max(limits) + 1):
        penalty = ((5 + length) / 6) ** length_penalty
        step = steps.advance(tokens[:, -1:]).float().log_softmax(dim=-1)
        vocab_size = step.shape[-1]
        total = (alive[:, :, None] + step.view(rows, width, vocab_size)).flatten(1)
        score, flat = total.topk(min(2 * width, total.shape[1]), dim=1)  # at most width of them end
        row, token = first + flat // vocab_size, flat % vocab_size
        ending = token == end
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


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
