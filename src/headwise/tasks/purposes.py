"""What a model was made for, as its class's name and arguments say, and the labels with which it tells its loss on lines."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from headwise.models.inputs.pieces import TextTokenizer
from headwise.tasks.pairs import pad

MASKED = 0.15
Batch = dict[str, Tensor]
Tokens = Callable[[], TextTokenizer]  # which not every model has beside it


class Purpose(ABC):
    """Makes labels; ``needs_words``: from what lines say behind their tab."""

    needs_words = True

    @abstractmethod
    def labels(self, batch: Batch, wanted: Sequence[str], tokens: Tokens) -> Batch:
        """The labels of a batch, with what of its inputs is another for them."""

    def predicted(self, labels: Tensor) -> int:
        """How many of them the loss is about."""
        return int((labels != -100).sum())


@dataclass(frozen=True)
class Answer(Purpose):
    """One sequence to another: translation, transcription, also by CTC. start: the token that the decoder begins with of
    itself, and that some tokenizers write, too."""

    start: int | None

    def labels(self, batch: Batch, wanted: Sequence[str], tokens: Tokens) -> Batch:
        rows = [tokens().target.encode(text) for text in wanted]
        return {"labels": pad([row[1:] if row[:1] == [self.start] else row for row in rows], -100)}


class GoOn(Purpose):
    """Every token of the input from those before it."""

    needs_words = False

    def labels(self, batch: Batch, wanted: Sequence[str], tokens: Tokens) -> Batch:
        return {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    def predicted(self, labels: Tensor) -> int:
        return super().predicted(labels[:, 1:])


class FindMasked(Purpose):
    """15 % of the tokens, at least one, hidden behind the mask (Devlin et al. 2019, section 3.1, but all of them); of the same
    tokens always the same ones."""

    needs_words = False

    def labels(self, batch: Batch, wanted: Sequence[str], tokens: Tokens) -> Batch:
        ids, vocabulary = batch["input_ids"], tokens().vocabulary
        mask = next((name for name in ("[MASK]", "<mask>") if name in vocabulary), None)
        if mask is None:
            raise ValueError("the tokenizer has no [MASK] or <mask>, which this model is trained with")
        special = torch.tensor([*tokens().encode(""), tokens().pad_token_id])
        drawn = torch.stack([_drawn(row, ~torch.isin(row, special)) for row in ids])
        hidden = (drawn < MASKED) | (drawn == drawn.min(-1, keepdim=True).values) & (drawn < 1)
        return {"input_ids": ids.masked_fill(hidden, vocabulary[mask]), "labels": ids.masked_fill(~hidden, -100)}


def _drawn(row: Tensor, real: Tensor) -> Tensor:
    """From 0 to 1 for every real token, 2 elsewhere: by chance that the tokens themselves decide, so that another text hides
    other places, and padding none."""
    chance = torch.Generator().manual_seed(crc32(row[real].numpy().tobytes()))
    drawn = torch.full(row.shape, 2.0)
    drawn[real] = torch.rand(int(real.sum()), generator=chance)
    return drawn


@dataclass(frozen=True)
class NameClass(Purpose):
    """One of its classes, by name or number."""

    classes: dict[str, int]

    def labels(self, batch: Batch, wanted: Sequence[str], tokens: Tokens) -> Batch:
        return {"labels": torch.tensor([self._number(name) for name in wanted])}

    def _number(self, name: str) -> int:
        if name in self.classes:
            return self.classes[name]
        if name.isdecimal() and int(name) in self.classes.values():
            return int(name)
        raise ValueError(f"the model has no class {name!r}; it has {', '.join(list(self.classes)[:8])}")


class NameSeveral(NameClass):
    """Any number of its classes, between commas."""

    def labels(self, batch: Batch, wanted: Sequence[str], tokens: Tokens) -> Batch:
        rows = torch.zeros(len(wanted), len(self.classes))
        for row, names in zip(rows, wanted, strict=True):
            row[[self._number(name.strip()) for name in names.split(",")]] = 1.0
        return {"labels": rows}


class SayNumber(Purpose):
    """A number: regression."""

    def labels(self, batch: Batch, wanted: Sequence[str], tokens: Tokens) -> Batch:
        return {"labels": torch.tensor([float(number) for number in wanted])}


def purpose(model: nn.Module) -> Purpose | None:
    """None for a model that tells no loss: a body without a head, a detector."""
    name, arguments, config = type(model).__name__, inspect.signature(model.forward).parameters, getattr(model, "config", None)
    if "labels" not in arguments:
        return None
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return GoOn()
    if name.endswith("ForMaskedLM"):
        return FindMasked()
    if name.endswith(tuple(f"For{what}Classification" for what in ("Sequence", "Image", "Video", "Audio"))):
        return _classifier(config)
    answers = "decoder_input_ids" in arguments or name.endswith("ForCTC")
    return Answer(getattr(config, "decoder_start_token_id", None)) if answers else None


def _classifier(config: Any) -> Purpose:
    kind, classes = getattr(config, "problem_type", None), {label: number for number, label in config.id2label.items()}
    if kind == "regression" or (kind is None and len(classes) == 1):
        return SayNumber()
    return NameSeveral(classes) if kind == "multi_label_classification" else NameClass(classes)
