"""How a text becomes ids, and ids a text: by the ``tokenizers`` library, SentencePiece, letter by letter or by phonemes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from torch import Tensor

NOTHING = "(?!)"  # a pattern that is found nowhere
SPACE = "\u2581"  # SentencePiece's, in front of a word


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

    def token_ids(self, *tokens: str, batch: int = 1) -> Int64[Tensor, "batch tokens"]:
        """The ids of the target's tokens by their names, the same in every row: what all answers of a batch begin with, as in
        ``hw.generate(..., decoder_input_ids=tokenizer.token_ids("<|startoftranscript|>", "<|fr|>", "<|transcribe|>"))``."""
        return torch.tensor([[self.target._need(token) for token in tokens]] * batch, dtype=torch.int64)

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
    """What the ``tokenizers`` library runs, whether a file says how or the functions of text.py."""

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


class Table(TextTokenizer):
    """A vocabulary that is written out. What ``alone`` finds in a text is one token, ``cut`` divides the rest into pieces.

    front, back: the tokens around every text. silent: the tokens that are no text. reads, writes: what happens to the letters
    of a text before it is cut, and after its pieces are joined.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        unknown: str,
        front: list[str],
        back: list[str],
        alone: str = NOTHING,
        silent: Iterable[str] = (),
        reads: Callable[[str], str] = str,
        writes: Callable[[str], str] = str,
    ) -> None:
        super().__init__(vocabulary)
        self.alone, self.unknown, self.reads, self.writes = re.compile(alone), self._need(unknown), reads, writes
        self.front, self.back = [self._need(token) for token in front], [self._need(token) for token in back]
        unsaid = {*front, *back, *silent}
        self.pieces = {number: piece for piece, number in vocabulary.items() if piece not in unsaid}

    @abstractmethod
    def cut(self, text: str) -> list[str]:
        """The pieces of a text."""

    @abstractmethod
    def join(self, pieces: list[str]) -> str:
        """The text of pieces."""

    def encode(self, text: str) -> list[int]:
        ids = list(self.front)
        for index, part in enumerate(self.alone.split(text)):  # what was found has the odd indices
            ids += [self._need(part)] if index % 2 else map(self.number, self.cut(self.reads(part)))
        return ids + self.back

    def number(self, piece: str) -> int:
        """The id of a piece."""
        return self.vocabulary.get(piece, self.unknown)

    def _text(self, ids: list[int]) -> str:
        return self.writes(self.join([self.pieces[number] for number in ids if number in self.pieces]))


class Pieces(Table):
    """SentencePiece cuts a text.

    numbers: the id of every piece, or the tokens that follow the pieces where those have their own numbers.
    """

    def __init__(
        self,
        file: Path,
        numbers: dict[str, int] | list[str],
        front: list[str],
        back: list[str],
        alone: str = NOTHING,
        reads: Callable[[str], str] = str,
        writes: Callable[[str], str] = str,
    ) -> None:
        self.spm = SentencePieceProcessor(model_file=str(file))
        own = map(self.spm.id_to_piece, range(self.spm.get_piece_size()))
        vocabulary = numbers if isinstance(numbers, dict) else {piece: i for i, piece in enumerate([*own, *numbers])}
        silent = ["<pad>", *filter(re.compile(alone).fullmatch, vocabulary)]
        super().__init__(vocabulary, "<unk>", front, back, f"({alone})", silent, reads, writes)

    def cut(self, text: str) -> list[str]:
        return self.spm.encode(text, out_type=str)

    def join(self, pieces: list[str]) -> str:
        text = self.spm.decode(pieces)
        return text.replace(SPACE, " ").strip() if SPACE in text else text  # a piece of Marian's other language keeps it


class Letters(Table):
    """A text letter by letter, as recognisers with connectionist temporal classification write it.

    A token of several letters is one wherever it stands, and takes the spaces around it. delimiter: the token between words;
    space: what is written for it. decode takes what hw.ctc has collapsed: two equal letters are a double letter.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        unknown: str,
        silent: Iterable[str],
        delimiter: str,
        space: str,
        reads: Callable[[str], str],
        writes: Callable[[str], str],
    ) -> None:
        whole = sorted((token for token in vocabulary if len(token) > 1), key=len, reverse=True)
        alone = rf"\s*({'|'.join(map(re.escape, whole)) or NOTHING})\s*"
        super().__init__(vocabulary, unknown, [], [], alone, {*silent} - {delimiter}, reads, writes)
        self._need(delimiter)
        self.delimiter, self.space = delimiter, space

    def cut(self, text: str) -> list[str]:
        return [self.delimiter if letter == " " else letter for letter in text]

    def join(self, pieces: list[str]) -> str:
        return "".join(self.space if piece == self.delimiter else piece for piece in pieces).strip()


class Phonemes(Table):
    """A text that is given as phonemes, spaces between them: "HH AH0 L OW1 , W ER1 L D". Nothing here speaks letters."""

    def cut(self, text: str) -> list[str]:
        return text.split()

    def join(self, pieces: list[str]) -> str:
        return " ".join(pieces)

    def number(self, piece: str) -> int:
        if piece not in self.vocabulary:
            raise ValueError(
                f"{piece!r} is no phoneme of this checkpoint. It reads phonemes with spaces between them, such as "
                f"{' '.join(list(self.pieces.values())[:4])!r}; letters have to be turned into them first"
            )
        return self.vocabulary[piece]
