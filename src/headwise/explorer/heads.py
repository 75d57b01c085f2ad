"""What every head of a model does on the lines of a file, as rows that the table, the picture and the files draw from."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attention.record import Recorded
from headwise.insight.measuring.bootstrap import bootstrap
from headwise.insight.measuring.places import Grid
from headwise.insight.measuring.statistics import MEANS, HeadStatistics, statistics
from headwise.insight.observing.observe import attention_modules, observe
from headwise.insight.operating.importance import importance
from headwise.models.checkpoint.folder import write
from headwise.tasks.examples import Checkpoint, Line
from headwise.tasks.purposes import Batch
from headwise.tasks.quality import Number

IMPORTANCE = "importance"
NAMES = (IMPORTANCE, *MEANS)


@dataclass(frozen=True)
class Head:
    """One head: ``IMPORTANCE``, |d loss / d gate| as ``hw.importance`` has it, and the means of ``hw.HeadStatistics``."""

    address: str
    head: int
    numbers: Mapping[str, Number]

    def row(self) -> dict[str, Any]:
        """Flat, for files; None where there is no number."""
        flat = {
            f"{name}{end}": None if isnan(x) else x
            for name, number in self.numbers.items()
            for end, x in zip(("", "_low", "_high"), number, strict=True)
        }
        return {"address": self.address, "head": self.head, **flat}


@dataclass(frozen=True)
class Heads:
    """All heads of a model, in its order. model: its class; parameters: how many; examples: how many the statistics are of;
    labelled: and the importance."""

    model: str
    parameters: int
    examples: int
    labelled: int
    heads: Sequence[Head]

    @property
    def title(self) -> str:
        less = f", importance {self.labelled:,}" if self.labelled not in (0, self.examples) else ""
        return f"{self.model}: {len(self.heads)} heads, {self.examples:,} examples{less}"

    @property
    def names(self) -> list[str]:
        """Of the numbers that some head has, importance first."""
        return list({name: None for head in self.heads for name in head.numbers})

    def by(self, name: str) -> list[Head]:
        """The heads, those with the largest number first, and those without it last. Raises ValueError for an unknown name."""
        if name not in self.names:
            raise ValueError(f"no number {name!r} of heads was measured; there is {', '.join(self.names)}")
        order = [-head.numbers[name].mean if name in head.numbers else nan for head in self.heads]
        return [head for _, head in sorted(zip(order, self.heads, strict=True), key=lambda pair: (isnan(pair[0]), pair[0]))]


def measure(checkpoint: Checkpoint, lines: Sequence[Line]) -> Heads:
    """The statistics of all heads on these lines, one by one, and their importance, where the lines make labels and the heads
    have gates. Ctrl-C ends the part that is at work, and what it had measured counts."""
    model, numbers = checkpoint.model, dict[tuple[str, int], dict[str, Number]]()
    examples, measured, labelled = [checkpoint.batch([line]) for line in lines], 0, 0

    def add(name: str, address: str, *of_heads: Tensor) -> None:
        for head, number in enumerate(torch.stack(of_heads, dim=-1).tolist()):
            numbers.setdefault((address, head), {})[name] = Number(*number)

    if all(checkpoint.learns(line) for line in lines) and has_gates(model):
        found = importance(model, examples)
        labelled = found.batches
        for address in found.value:
            add(IMPORTANCE, address, found.value[address], found.low[address], found.high[address])
    for address, means in bootstrap(_Measured(checkpoint, examples)).items():
        for name, interval in means.items():
            measured = interval.sequences
            add(name, address, interval.mean, interval.low, interval.high)
    heads = [Head(address, head, named) for (address, head), named in numbers.items()]
    return Heads(type(model).__name__, checkpoint.parameters, measured, labelled, heads)


def has_gates(model: nn.Module) -> bool:
    """False where attention is written out in code that is not ours."""
    try:
        return bool(attention_modules(model))
    except ValueError:
        return False


@dataclass(frozen=True)
class _Measured:
    """The statistics of example after example; their number makes a bar of progress possible."""

    checkpoint: Checkpoint
    examples: Sequence[Batch]

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[dict[str, HeadStatistics]]:
        for batch in self.examples:
            with observe(self.checkpoint.model) as record, torch.no_grad():
                self.checkpoint.model(**batch)
            yield {
                address: statistics({address: calls}, **_known(self.checkpoint, batch, calls[0]))[address]
                for address, calls in record.items()
            }


def _known(checkpoint: Checkpoint, batch: Batch, call: Recorded) -> dict[str, Any]:
    """What is known of the positions of a call: the tokens of a model of one text, the patches of a picture."""
    key_len, config = call.key.shape[-2], checkpoint.model.config
    if not call.call.same_sequence or checkpoint.has_decoder:
        return {}
    if checkpoint.reads_text:
        return {"tokens": batch["input_ids"]} if batch["input_ids"].shape[-1] == key_len else {}
    patch, (*_, height, width) = getattr(config, "patch_size", None), batch.get("pixel_values", torch.empty(0, 0)).shape
    if not isinstance(patch, int) or not height:
        return {}
    rows, columns = height // patch, width // patch
    special = key_len - rows * columns  # class tokens
    return {"places": Grid(rows, columns, special)} if 0 <= special < columns else {}


def save(heads: Heads, path: Path) -> None:
    """Writes .csv, a row per head, or .json, the same rows and what they were measured on."""
    rows = [head.row() for head in heads.heads]
    if path.suffix == ".json":
        whole = {"model": heads.model, "parameters": heads.parameters, "examples": heads.examples, "labelled": heads.labelled}
        whole["heads"] = rows
        write(path, lambda place: place.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8"))
    else:
        names = list({name: None for row in rows for name in row})
        write(path, lambda place: _write_csv(place, names, rows))


def _write_csv(place: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with place.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
