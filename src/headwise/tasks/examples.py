"""Anybody's checkpoint, and the lines of a file as its inputs: what heads are measured on."""

from __future__ import annotations

import inspect
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headwise.models.checkpoint.folder import (
    CheckpointError,
    find,
    first_line,
    model_folder,
    read_config,
    read_weights,
    weight_bytes,
)
from headwise.models.checkpoint.format import architectures
from headwise.models.inputs.images import image_processor
from headwise.models.inputs.pieces import TextTokenizer
from headwise.models.inputs.sounds import feature_extractor
from headwise.models.inputs.text import tokenizer
from headwise.models.registry import load, save
from headwise.models.seq2seq import EncoderDecoder
from headwise.models.systems import ARCHITECTURES
from headwise.tasks.pairs import read_lines
from headwise.tasks.purposes import Answer, Batch, Purpose, purpose

LONGEST = ("max_positions", "max_position_embeddings", "n_positions")  # what configurations call it
INPUTS = (".json", ".txt", ".model", ".spm")  # files that say how inputs are made
SAVED = r"config\.json|generation_config\.json|.*\.index\.json"  # and those that are the model's own


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
    """A model of ours or of transformers in eval mode, and the folder with what turns lines into its inputs."""

    folder: Path
    model: nn.Module

    @classmethod
    def load(cls, folder: str | Path) -> Checkpoint:
        """From a folder or the Hub. What we have no class for, transformers reads, where it is installed."""
        path = find(folder)
        match architectures(read_config(model_folder(path))):
            case [str(name), *_] if name not in ARCHITECTURES:
                model = _of_transformers(path, name)
            case _:  # also what names none, or is unsound, of which load says so
                model = load(path)
        if isinstance(model, EncoderDecoder):
            model.label_smoothing = 0.0  # which is for training: what is measured is -log p
        return cls(path, model)

    def save(self, model: nn.Module, folder: Path) -> Checkpoint:
        """Another model in this one's place, of ours, in a new folder: weights in the precision of most numbers here, and the
        files that prepare its inputs. Returns it as it was stored. The folder is there whole or not at all."""
        check_free(folder)
        here, numbers = model_folder(self.folder), Counter[torch.dtype]()
        for x in read_weights(here)[0].values():
            numbers[x.dtype] += x.numel() * x.is_floating_point()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as beside:
            made = Path(beside) / "model"
            save(model, made, numbers.most_common(1)[0][0])
            for file in here.iterdir():
                if file.is_file() and file.suffix in INPUTS and not re.fullmatch(SAVED, file.name):
                    shutil.copyfile(file, made / file.name)
            os.replace(made, folder)
        return Checkpoint.load(folder)

    @property
    def bytes(self) -> int:
        """Of the files with its weights."""
        return weight_bytes(model_folder(self.folder))

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def purpose(self) -> Purpose | None:
        return purpose(self.model)

    @cached_property
    def tokens(self) -> TextTokenizer:
        return tokenizer(self.folder)

    @property
    def reads_text(self) -> bool:
        return "input_ids" in self._arguments

    @property
    def has_decoder(self) -> bool:
        """Besides an encoder: two sequences."""
        return "decoder_input_ids" in self._arguments

    def learns(self, line: Line) -> bool:
        """Whether the line says what the model should say to it, so that there is a loss."""
        return self.purpose is not None and (line.wanted is not None or not self.purpose.needs_words)

    def usable(self, lines: Sequence[Line]) -> tuple[list[Line], list[str]]:
        """The lines whose text the model can read and, where it has labels, say something to; a sentence about each of the
        others. Raises ValueError where none is left."""
        if not self.reads_text:
            return list(lines), []
        usable, left_out = list[Line](), list[str]()
        for line in lines:
            if not self.tokens.encode(line.given):
                left_out.append(f"{line}: no tokens")
                continue
            batch = self.batch([line])
            length, labels = batch["input_ids"].shape[1], batch.get("labels")
            longest = max(length, labels.shape[1] if labels is not None and isinstance(self.purpose, Answer) else 0)
            if self._most is not None and longest > self._most:
                left_out.append(f"{line}: {longest} tokens, and the model knows {self._most} positions")
            elif labels is not None and self.purpose is not None and not self.purpose.predicted(labels):
                left_out.append(f"{line}: {length} tokens, of which none can be predicted")
            else:
                usable.append(line)
        if left_out and not usable:
            raise ValueError(left_out[0])
        return usable, left_out

    def batch(self, lines: Sequence[Line]) -> Batch:
        """The inputs of some lines, padded, with labels where they are known. Raises ValueError where the model wants more."""
        if self.reads_text:
            batch = self.tokens([line.given for line in lines])
            self._check_known(batch["input_ids"])
        else:
            read = image_processor if "pixel_values" in self._arguments else feature_extractor
            try:
                batch = read(self.folder)([line.file.parent / line.given for line in lines])
            except ValueError as error:
                raise ValueError(f"{lines[0]}: {error}") from None
        if self.purpose is not None and all(self.learns(line) for line in lines):
            try:
                batch |= self.purpose.labels(batch, [line.wanted or "" for line in lines], lambda: self.tokens)
            except ValueError as error:
                raise ValueError(f"{lines[0]}: {error}") from None
        if isinstance(self.purpose, Answer) and "labels" in batch:
            self._check_known(batch["labels"])
        if self.has_decoder and self.purpose is not None and "labels" not in batch:
            raise ValueError(f"{lines[0]}: expected a tab, and behind it what the model should answer (in .txt, a tab is text)")
        needed = [name for name, argument in self._arguments.items() if argument.default is argument.empty]
        if missing := {*needed} - batch.keys() - {"args", "kwargs"}:
            raise ValueError(f"{type(self.model).__name__} reads {', '.join(sorted(missing))}, which lines do not give")
        return {name: x for name, x in batch.items() if name in self._arguments}

    @cached_property
    def _arguments(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.model.forward).parameters

    @property
    def _most(self) -> int | None:
        """The positions that the model has a table for."""
        config: Any = self.model.config
        if hasattr(config, "relative_attention_num_buckets"):
            return None
        sizes = [size for name in LONGEST if isinstance(size := getattr(config, name, None), int) and size > 0]
        tables = (part for part in self.model.modules() if isinstance(part, nn.Embedding) and part.num_embeddings in sizes[:1])
        before = [table.padding_idx + 1 for table in tables if table.padding_idx is not None]  # RoBERTa's positions begin there
        return sizes[0] - max(before, default=0) if sizes else None

    def _check_known(self, ids: Tensor) -> None:
        most, known = int(ids.max()), getattr(self.model.config, "vocab_size", None)
        if known is not None and most >= known:
            raise ValueError(f"{self.folder}: the tokenizer says token {most}, and the model has {known} tokens")


def check_free(folder: Path) -> None:
    """Raises ValueError where a model cannot be put: nothing that is there is written over."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is there already: choose another folder")


def _of_transformers(path: Path, name: str) -> nn.Module:
    try:
        import transformers
    except ModuleNotFoundError:
        raise CheckpointError(f"{path}: {name} is read by transformers, which is not installed") from None
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise CheckpointError(f"{path}: neither headwise nor transformers {transformers.__version__} has a model {name!r}")
    try:
        loaded: Any = kind.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # a folder can be damaged in any way
        raise CheckpointError(f"{path}: transformers cannot read it: {first_line(error)}") from None
    model, said = loaded
    if wrong := sorted(map(str, [*said["missing_keys"], *said["mismatched_keys"]])):
        raise CheckpointError(f"{path} does not hold the weights of a {name}: {len(wrong)} are missing, {wrong[0]} among them")
    return model.eval()
