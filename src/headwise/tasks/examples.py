"""Anybody's checkpoint, and the lines of a file as its inputs: what heads are measured on."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headwise.models.checkpoint.folder import CheckpointError, find, model_folder, read_config, read_weights
from headwise.models.inputs.images import image_processor
from headwise.models.inputs.pieces import TextTokenizer
from headwise.models.inputs.sounds import feature_extractor
from headwise.models.inputs.text import tokenizer
from headwise.models.registry import load, save
from headwise.models.systems import ARCHITECTURES
from headwise.tasks.pairs import pad, read_lines

MASKED, SEED = 0.15, 0  # of the tokens, for models that find masked ones (Devlin et al. 2019, section 3.1)
LONGEST = ("max_positions", "max_position_embeddings", "n_positions")  # what configurations call it
INPUTS = (".json", ".txt", ".model", ".spm")  # files that say how inputs are made
Batch = dict[str, Tensor]


class Line(NamedTuple):
    """A line of a file: a text, or the path of a picture or a sound, as seen from that file; and, behind a tab, what the model
    should say to it."""

    file: Path
    number: int
    given: str
    wanted: str | None

    def __str__(self) -> str:
        return f"{self.file}, line {self.number}"


def read(path: Path) -> list[Line]:
    """The lines that are not empty; columns behind the second are ignored. Raises ValueError where there is none."""
    whole = path.name.removesuffix(".gz").endswith(".txt")  # a tab in a text is a space
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        given, *more = [line] if whole else line.split("\t")
        if given.strip():
            found.append(Line(path, number, given, more[0] if more and more[0] else None))
    if not found:
        raise ValueError(f"{path} holds no lines")
    return found


def some(lines: Sequence[Line], most: int | None) -> list[Line]:
    """At most so many of them, evenly spaced; None = all."""
    kept = len(lines) if most is None else min(most, len(lines))
    return [lines[i * len(lines) // kept] for i in range(kept)]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model of ours or of transformers in eval mode, and the folder with what turns lines into its inputs.

    It is asked what it was made for, as its class's name and arguments say: to answer (text to text, sound to text), to go on
    (every token of the line itself), to find 15 % of the tokens, masked with seed 0, or to name a class.
    """

    folder: Path
    model: nn.Module

    @classmethod
    def load(cls, folder: str | Path) -> Checkpoint:
        """From a folder or the Hub. What we have no class for, transformers reads, where it is installed."""
        path = find(folder)
        named = read_config(model_folder(path)).get("architectures") or [None]
        if named[0] is None or named[0] in ARCHITECTURES:
            return cls(path, load(path))
        try:
            import transformers
        except ModuleNotFoundError:
            raise CheckpointError(f"{path}: {named[0]} is read by transformers, which is not installed") from None
        transformers.utils.logging.disable_progress_bar()
        kind = getattr(transformers, str(named[0]), None)
        if kind is None:
            raise CheckpointError(f"{path}: neither headwise nor transformers {transformers.__version__} has a {named[0]}")
        return cls(path, kind.from_pretrained(path, dtype=torch.float32).eval())

    def save(self, model: nn.Module, folder: Path) -> Checkpoint:
        """Another model in this one's place, of ours, in a new folder: weights in the precision that they are stored in here,
        and the files that prepare its inputs. Returns it as it was stored."""
        if folder.exists() and folder.resolve() == self.folder.resolve():
            raise ValueError(f"{folder} holds the model that this one comes from: choose another folder")
        here = model_folder(self.folder)
        stored = [x.dtype for x in read_weights(here)[0].values() if x.is_floating_point()]
        save(model, folder, stored[0])
        for file in here.iterdir():
            if file.suffix in INPUTS and not (folder / file.name).exists() and not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / file.name)
        return Checkpoint.load(folder)

    @property
    def bytes(self) -> int:
        """Of the files with its weights."""
        here = model_folder(self.folder)
        found = list(here.glob("*.safetensors")) or list(here.glob("*.bin"))
        return sum(file.stat().st_size for file in found)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def answers(self) -> bool:
        """Whether it reads one sequence and writes another."""
        return "decoder_input_ids" in self._arguments

    @property
    def reads_text(self) -> bool:
        return "input_ids" in self._arguments

    @property
    def classes(self) -> dict[str, int] | None:
        """The numbers of a classifier's classes; None for other models."""
        kinds = tuple(f"For{what}Classification" for what in ("Sequence", "Image", "Video", "Audio"))
        config: Any = self.model.config
        return {name: number for number, name in config.id2label.items()} if self._name.endswith(kinds) else None

    def usable(self, lines: Sequence[Line]) -> tuple[list[Line], list[str]]:
        """The lines that the model can read and, where it has labels, say something to; a sentence about each of the others.
        Raises ValueError where none is left."""
        usable, left_out = list[Line](), list[str]()
        for line in lines if self.reads_text else ():
            batch = self.batch([line])
            length, most, predicted = batch["input_ids"].shape[1], self._longest, slice(1 if self._goes_on else 0, None)
            if most is not None and length > most:
                left_out.append(f"{line}: {length} tokens, and the model reads at most {most}")
            elif "labels" in batch and not batch["labels"][..., predicted].ne(-100).any():
                left_out.append(f"{line}: {length} tokens, of which none can be predicted")
            else:
                usable.append(line)
        if left_out and not usable:
            raise ValueError(left_out[0])
        return (usable if self.reads_text else list(lines)), left_out

    def batch(self, lines: Sequence[Line]) -> Batch:
        """The inputs of some lines, padded, with labels where they are known."""
        if self.reads_text:
            batch = self.tokens([line.given for line in lines])
            most, known = int(batch["input_ids"].max()), getattr(self.model.config, "vocab_size", None)
            if known is not None and most >= known:
                raise ValueError(f"{self.folder}: the tokenizer says token {most}, and the model has {known} tokens")
        else:
            read = image_processor if "pixel_values" in self._arguments else feature_extractor
            batch = read(self.folder)([line.file.parent / line.given for line in lines])
        batch = {name: x for name, x in (batch | self._labels(batch, lines)).items() if name in self._arguments}
        needed = [name for name, argument in self._arguments.items() if argument.default is argument.empty]
        if missing := {*needed} - batch.keys() - {"args", "kwargs"}:
            raise ValueError(f"{self._name} reads {', '.join(sorted(missing))}, which lines of a file do not give")
        return batch

    @cached_property
    def tokens(self) -> TextTokenizer:
        return tokenizer(self.folder)

    @property
    def _name(self) -> str:
        return type(self.model).__name__

    @cached_property
    def _arguments(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.model.forward).parameters)

    @property
    def _goes_on(self) -> bool:
        return self._name.endswith(("ForCausalLM", "LMHeadModel"))

    @property
    def _longest(self) -> int | None:
        config: Any = self.model.config
        return next((most for name in LONGEST if isinstance(most := getattr(config, name, None), int)), None)

    def _labels(self, batch: Batch, lines: Sequence[Line]) -> Batch:
        """With which the model tells its loss; none where it has no such argument or the lines do not say."""
        wanted = [line.wanted for line in lines if line.wanted is not None]
        if "labels" not in self._arguments:
            return {}
        if self._goes_on:
            return {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}
        if self._name.endswith("ForMaskedLM"):
            return self._masked(batch)
        if len(wanted) < len(lines):
            return {}
        if self.classes is not None:
            return {"labels": torch.tensor([_class(line, self.classes) for line in lines])}
        if self.answers or self._name.endswith("ForCTC"):
            target = self.tokens.target
            return {"labels": pad([target.encode(text) for text in wanted], -100)}
        return {}

    def _masked(self, batch: Batch) -> Batch:
        """Some tokens of every row, at least one, exchanged for the mask's; the same ones in the same batch."""
        tokens, ids = self.tokens, batch["input_ids"]
        mask = next((name for name in ("[MASK]", "<mask>") if name in tokens.vocabulary), None)
        if mask is None:
            raise ValueError(f"{self.folder}: the tokenizer has no [MASK] or <mask>")
        own = torch.tensor([*tokens.encode(""), tokens.pad_token_id])
        drawn = torch.rand(ids.shape, generator=torch.Generator().manual_seed(SEED)).masked_fill(torch.isin(ids, own), 2.0)
        chosen = (drawn < MASKED) | (drawn == drawn.min(-1, keepdim=True).values) & (drawn < 1)
        hidden = ids.masked_fill(chosen, tokens.vocabulary[mask])
        return {"input_ids": hidden, "labels": ids.masked_fill(~chosen, -100)}


def _class(line: Line, classes: dict[str, int]) -> int:
    wanted = line.wanted or ""
    if wanted in classes:
        return classes[wanted]
    if wanted.isdecimal() and int(wanted) in classes.values():
        return int(wanted)
    raise ValueError(f"{line}: the model has no class {wanted!r}; it has {', '.join(list(classes)[:8])}")
