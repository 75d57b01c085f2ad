"""Sentence pairs: reading them from the published format, and batches of them that an interrupted training can resume."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

Ids = list[int]


def read_pairs(folder: Path, split: str) -> list[tuple[str, str]]:
    """Source and target of every line of ``split``.tsv or ``split``.tsv.gz: columns split by tabs, further ones ignored.

    Raises FileNotFoundError, or ValueError with the file and line where one is not a pair.
    """
    path, pairs = split_file(folder, split), []
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split("\t")
        if len(columns) < 2 or not columns[0] or not columns[1]:
            raise ValueError(f"{path}, line {number}: expected source and target separated by a tab; got {line[:80]!r}")
        pairs.append((columns[0], columns[1]))
    if not pairs:
        raise ValueError(f"{path} holds no pairs")
    return pairs


def split_file(folder: Path, split: str) -> Path:
    """The file of a data set's part. Raises FileNotFoundError."""
    for path in (folder / f"{split}.tsv", folder / f"{split}.tsv.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder} holds neither {split}.tsv nor {split}.tsv.gz")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, packed by gzip where it ends in .gz. Raises ValueError for a damaged one."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            return [line.rstrip("\r\n") for line in file]
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: {error}") from None


def pad(sequences: Sequence[Ids], value: int) -> Tensor:
    """(len(sequences), longest), filled up with ``value`` on the right."""
    rows = [torch.tensor(sequence) for sequence in sequences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def collate(pairs: Sequence[tuple[Ids, Ids]], pad_token_id: int) -> dict[str, Tensor]:
    """What a translation model learns from: padded sources, which of them are real, targets with -100 where there are none."""
    sources, targets = zip(*pairs, strict=True)
    input_ids = pad(sources, pad_token_id)
    return {"input_ids": input_ids, "attention_mask": input_ids != pad_token_id, "labels": pad(targets, -100)}


class Batches:
    """Batches of pairs of similar length, about ``tokens`` tokens of source and target each, in a new order every epoch.

    The order is a function of (seed, epoch) alone. The position within the epoch is part of ``state_dict``, so that training
    goes on in the middle of an epoch with the very batch that was to come.
    """

    def __init__(self, pairs: Sequence[tuple[Ids, Ids]], tokens: int, pad_token_id: int, seed: int) -> None:
        self.pairs, self.pad_token_id, self.seed = pairs, pad_token_id, seed
        self.epoch, self.position = 0, 0
        self._lengths = torch.tensor([len(source) + len(target) for source, target in pairs])
        self._sizes = _sizes(self._lengths.sort().values.tolist(), tokens)

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        batches = self._order()
        while self.position < len(self):
            self.position += 1
            yield collate([self.pairs[i] for i in batches[self.position - 1]], self.pad_token_id)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def _order(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        noisy = self._lengths + 3 * torch.rand(len(self.pairs), generator=generator)  # neighbours change every epoch
        ends = list(accumulate(self._sizes))
        ordered = noisy.argsort().tolist()
        batches = [ordered[end - size : end] for size, end in zip(self._sizes, ends, strict=True)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _sizes(sorted_lengths: list[int], tokens: int) -> list[int]:
    """How many neighbours in length share a batch: as many as their longest allows."""
    sizes, size = [], 0
    for length in sorted_lengths:
        if size and (size + 1) * length > tokens:
            sizes.append(size)
            size = 0
        size += 1
    return [*sizes, size] if size else sizes
