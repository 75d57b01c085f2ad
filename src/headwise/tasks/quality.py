"""How good a model is on the lines of a file, by what the lines say it should say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from headwise.insight.measuring.bootstrap import interval_of_mean
from headwise.insight.progress import tracked
from headwise.models.generation import generate
from headwise.tasks.examples import Checkpoint, Line
from headwise.tasks.purposes import NameClass

AT_ONCE, EXTRA = 32, 50  # lines in a batch, tokens more than were read


class Number(NamedTuple):
    """A mean and its 95 % interval; nan where there is none."""

    mean: float
    low: float
    high: float


def mean(numbers: Sequence[float] | Tensor) -> Number:
    """With a percentile interval of a bootstrap over the numbers (1,000 resamples, seed 0)."""
    found = interval_of_mean(torch.as_tensor(numbers, dtype=torch.float64)[:, None])
    return Number(float(found.mean), float(found.low), float(found.high))


@torch.no_grad()
def answers(checkpoint: Checkpoint, lines: Sequence[Line]) -> dict[str, list[float]]:
    """By line: the model's own "loss", nats, and a classifier's "accuracy", 0 or 1."""
    found = dict[str, list[float]]()
    for line in tracked(lines, "loss"):
        batch = checkpoint.batch([line])
        if "labels" not in batch:
            raise ValueError(f"{line}: nothing says what the model should say to it")
        output = checkpoint.model(**batch)
        found.setdefault("loss", []).append(float(output.loss))
        if type(checkpoint.purpose) is NameClass:
            found.setdefault("accuracy", []).append(float(output.logits.argmax(-1) == batch["labels"]))
    return found


def translation(checkpoint: Checkpoint, lines: Sequence[Line]) -> Number:
    """sacreBLEU of what the model writes, greedily."""
    from headwise.tasks.scoring import score  # which needs sacrebleu, that only the extra "train" brings

    order = sorted(range(len(lines)), key=lambda i: len(lines[i].given))  # similar lengths together
    written = [""] * len(lines)
    for start in tracked(range(0, len(order), AT_ONCE), "translating"):
        chosen = order[start : start + AT_ONCE]
        batch = checkpoint.tokens([lines[i].given for i in chosen])
        limits = (batch["attention_mask"].sum(1) + EXTRA).tolist()
        found = generate(checkpoint.model, batch["input_ids"], batch["attention_mask"], max_new_tokens=limits)
        for i, hypothesis in zip(chosen, found, strict=True):
            written[i] = checkpoint.tokens.decode(hypothesis.tokens)
    found = score(written, [line.wanted or "" for line in lines])
    return Number(found.bleu, found.bleu - found.interval, found.bleu + found.interval)
