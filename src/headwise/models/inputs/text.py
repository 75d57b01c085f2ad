"""Text through a checkpoint's own tokenizer: tokenizer.json, or the older files of BERT, GPT-2, Marian, T5 and Llama.

Special tokens that stand in a text ("[MASK]", "</s>") are tokens where a tokenizer.json, vocab.txt or merges.txt has them.
With a SentencePiece file they are text, as in the programs those models were trained with, but for T5's "<extra_id_0>" and
for Marian's language code in front (">>fr<<"). No text is ever cut: a model says itself what is too long for it.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from headwise.models.checkpoint.folder import CheckpointError, find, read_json

NOTHING = "(?!)"  # a pattern that is found nowhere
SPACE = "\u2581"  # SentencePiece's, in front of a word


def tokenizer(folder: str | os.PathLike[str]) -> TextTokenizer:
    """The tokenizer in ``folder``, or of a model of that name on the Hub. Raises CheckpointError with a sentence where there is
    none that can be read."""
    path = find(folder)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder with a tokenizer")
    files = next((files for files in KINDS if all((path / file).is_file() for file in files.split(" + "))), None)
    if files is None:
        raise CheckpointError(f"{path} holds no tokenizer; looked for {', '.join(KINDS)}")
    read, systems, names = KINDS[files]
    config = _json(path / "config.json")
    if systems and config.get("model_type", systems[0]) not in systems:
        raise CheckpointError(f"{path}: {config['model_type']} needs a tokenizer.json; {files} would be read as {systems[0]}'s")
    stated = (_json(path / "tokenizer_config.json") | _json(path / "special_tokens_map.json")).items()
    plain = {name: entry.get("content") if isinstance(entry, dict) else entry for name, entry in stated}
    settings = names | {name: entry for name, entry in plain.items() if entry is not None}
    try:
        found = read(path, settings)
    except Exception as error:  # tokenizers raises bare Exception, SentencePiece RuntimeError
        raise CheckpointError(f"{path}: cannot read {files}: {error}") from error
    found.pad_token_id = found.target.pad_token_id = _padding(found.vocabulary, settings, config)
    if config:  # without one, the pairs say it
        found.has_types = config.get("type_vocab_size") not in (None, 0, 1)
    return found


class TextTokenizer(ABC):
    """Texts to a batch for a model, and generated ids to text.

    ``target`` is the tokenizer of what the model writes: another one in Marian, with a SentencePiece file per language, this
    one elsewhere. ``decode`` reads the target's ids. ``pad_token_id`` is the padding token's or, where a checkpoint has none
    (GPT-2, Llama), the end token's; attention_mask says what is real.
    """

    pad_token_id = 0
    has_types = False  # whether the model has embeddings of token types

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary, self.vocab_size = vocabulary, len(vocabulary)
        self.target: TextTokenizer = self

    def __call__(
        self, texts: str | Sequence[str], others: str | Sequence[str] | None = None, *, side: str = "right"
    ) -> dict[str, Int64[Tensor, "batch length"]]:
        """input_ids, attention_mask (1 = real) and, where the model has_types, token_type_ids.

        ``others`` are the second texts of pairs; ``side`` is where padding goes: "left" to generate with a decoder.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side is {side!r}; padding goes to the 'left' or the 'right'")
        rows = self._rows(texts, others)
        length = max(len(ids) for ids, _ in rows)

        def padded(row: list[int], value: int) -> list[int]:
            gap = [value] * (length - len(row))
            return gap + row if side == "left" else row + gap

        batch = {"input_ids": [padded(ids, self.pad_token_id) for ids, _ in rows]}
        batch["attention_mask"] = [padded([1] * len(ids), 0) for ids, _ in rows]
        if self.has_types:
            batch["token_type_ids"] = [padded(types, 0) for _, types in rows]
        return {name: torch.tensor(table, dtype=torch.int64) for name, table in batch.items()}

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of one text, special tokens included."""

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of one row of ids, special tokens left out; SentencePiece writes " ⁇ " for an unknown token."""
        row = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        if not isinstance(row, list) or not all(isinstance(number, int) and number >= 0 for number in row):
            raise ValueError("decode takes one row of ids, none below 0")
        return self.target._text(row)

    @abstractmethod
    def _text(self, ids: list[int]) -> str: ...

    def _pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        raise ValueError("this checkpoint's tokenizer does not join two texts to a pair")

    def _need(self, token: str) -> int:
        if token not in self.vocabulary:
            raise ValueError(f"there is no token {token!r}")
        return self.vocabulary[token]

    def _rows(self, texts: str | Sequence[str], others: str | Sequence[str] | None) -> list[tuple[list[int], list[int]]]:
        """(ids, types) of every text or pair."""
        firsts = [texts] if isinstance(texts, str) else texts
        if not all(isinstance(text, str) for text in [*firsts, *(others or [])]):
            raise ValueError("expected texts; pairs go in as tokenizer(first texts, second texts)")
        if not firsts:
            raise ValueError("there are no texts: a batch has at least one")
        if others is None:
            return [(ids, [0] * len(ids)) for ids in map(self.encode, firsts)]
        seconds = [others] if isinstance(others, str) else others
        if len(firsts) != len(seconds):
            raise ValueError(f"pairs need as many second texts as first ones: {len(seconds)} and {len(firsts)}")
        return [self._pair(first, second) for first, second in zip(firsts, seconds, strict=True)]


class Library(TextTokenizer):
    """What the ``tokenizers`` library runs, whether a file says how or the functions below."""

    def __init__(self, program: Tokenizer) -> None:
        super().__init__(program.get_vocab())
        program.no_padding()  # a tokenizer.json can hold a length of its own, and cut there
        program.no_truncation()
        self.program = program
        self.joins = program.num_special_tokens_to_add(True) > program.num_special_tokens_to_add(False)
        self.has_types = self.joins and 1 in program.encode("a", "b").type_ids

    def encode(self, text: str) -> list[int]:
        return self.program.encode(text).ids

    def _text(self, ids: list[int]) -> str:
        return self.program.decode(ids)

    def _pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        if not self.joins:  # nothing would stand between the two
            return super()._pair(first, second)
        encoding = self.program.encode(first, second)
        return encoding.ids, encoding.type_ids


class Pieces(TextTokenizer):
    """SentencePiece cuts a text; what ``alone`` finds in it is one token.

    numbers: the id of every piece, or the tokens that follow the pieces where those have their own numbers.
    """

    def __init__(
        self, file: Path, numbers: dict[str, int] | list[str], front: list[str], back: list[str], alone: str = NOTHING
    ) -> None:
        self.spm = SentencePieceProcessor(model_file=str(file))
        own = map(self.spm.id_to_piece, range(self.spm.get_piece_size()))
        super().__init__(numbers if isinstance(numbers, dict) else {piece: i for i, piece in enumerate([*own, *numbers])})
        self.alone, self.unknown = re.compile(f"({alone})"), self._need("<unk>")
        self.front, self.back = [self._need(token) for token in front], [self._need(token) for token in back]
        silent = {"<pad>", *front, *back, *filter(self.alone.fullmatch, self.vocabulary)}
        self.pieces = {number: piece for piece, number in self.vocabulary.items() if piece not in silent}

    def encode(self, text: str) -> list[int]:
        ids = list(self.front)
        for index, part in enumerate(self.alone.split(text)):  # what was found has the odd indices
            if index % 2:
                ids.append(self._need(part))
            else:
                ids += [self.vocabulary.get(piece, self.unknown) for piece in self.spm.encode(part, out_type=str)]
        return ids + self.back

    def _text(self, ids: list[int]) -> str:
        text = self.spm.decode([self.pieces[number] for number in ids if number in self.pieces])
        return text.replace(SPACE, " ").strip() if SPACE in text else text  # a piece of Marian's other language keeps it


def _word_pieces(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    with (path / "vocab.txt").open(encoding="utf-8") as lines:
        vocabulary = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    program = Tokenizer(models.WordPiece(vocabulary, unk_token=settings["unk_token"]))
    lowercase, accents = settings.get("do_lower_case", True), settings.get("strip_accents")
    chinese = settings.get("tokenize_chinese_chars", True)
    program.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents, handle_chinese_chars=chinese)
    program.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    program.decoder = decoders.WordPiece()
    _add_special(program, [settings[name] for name in BERT])
    ends = [(settings[name], vocabulary[settings[name]]) for name in ("sep_token", "cls_token")]
    program.post_processor = processors.BertProcessing(*ends)
    return Library(program)


def _byte_pairs(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    program = Tokenizer(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    program.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
    program.decoder = decoders.ByteLevel()
    _add_special(program, [settings["eos_token"]])
    return Library(program)


def _add_special(program: Tokenizer, tokens: list[str]) -> None:
    for token in tokens:
        if program.token_to_id(token) is None:  # the library would give it an id that no model has a weight for
            raise ValueError(f"there is no token {token!r}")
    program.add_special_tokens(tokens)


def _two_languages(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    numbers, back = _json(path / "vocab.json"), [settings["eos_token"]]
    code = r"^>>[^\s<>]+<<" if any(token.startswith(">>") for token in numbers) else NOTHING
    found = Pieces(path / "source.spm", numbers, [], back, code)
    found.target = Pieces(path / "target.spm", _json(path / "target_vocab.json") or numbers, [], back, code)
    return found


def _t5(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    fill = [f"<extra_id_{number}>" for number in reversed(range(settings.get("extra_ids", 100)))]
    return Pieces(path / "spiece.model", fill, [], [settings["eos_token"]], "|".join(fill) or NOTHING)


def _llama(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    front = [settings["bos_token"]] if settings.get("add_bos_token", True) else []
    back = [settings["eos_token"]] if settings.get("add_eos_token", False) else []
    return Pieces(path / "tokenizer.model", [], front, back)


def _padding(vocabulary: dict[str, int], settings: dict[str, Any], config: dict[str, Any]) -> int:
    for role in ("pad", "eos"):
        number = vocabulary.get(settings.get(f"{role}_token", ""), config.get(f"{role}_token_id"))
        number = number[0] if isinstance(number, list) and number else number  # Llama 3 has several ends
        if isinstance(number, int) and number >= 0:
            return number
    return 0  # any will do: attention_mask hides it


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file."""
    return read_json(path) if path.exists() else {}


BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
PIECES = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
# Files, the first found of which are read: how, for which model_type in config.json (none named: any), and special tokens'
# names where the checkpoint has none.
KINDS: dict[str, tuple[Callable[[Path, dict[str, Any]], TextTokenizer], tuple[str, ...], dict[str, str]]] = {
    "tokenizer.json": (lambda path, _: Library(Tokenizer.from_file(str(path / "tokenizer.json"))), (), {}),
    "vocab.txt": (_word_pieces, (), BERT),
    "vocab.json + merges.txt": (_byte_pairs, ("gpt2",), {"eos_token": "<|endoftext|>"}),
    "source.spm + target.spm + vocab.json": (_two_languages, ("marian",), PIECES),
    "spiece.model": (_t5, ("t5",), PIECES),
    "tokenizer.model": (_llama, ("llama", "mistral"), PIECES),
}
