"""Translation: sentences in, sentences out."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from headwise.models.checkpoint.folder import CheckpointError, write
from headwise.models.generation import Beam, Greedy, Hypothesis, generate
from headwise.models.registry import load, save
from headwise.models.transformer import Transformer
from headwise.tasks.pairs import Ids, pad
from headwise.tasks.tokens import read_tokenizer


@dataclass(frozen=True)
class Search:
    """How a translation is searched for: beams = 1 is greedy. At most ``extra_tokens`` more than the source has."""

    beams: int = 4
    length_penalty: float = 0.6
    extra_tokens: int = 50


def search(model: Transformer, sources: Sequence[Ids], how: Search) -> list[Hypothesis]:
    """The best translation of every source (token ids with the end token), in one batch."""
    input_ids = pad(sources, model.config.pad_token_id)
    found = Greedy() if how.beams == 1 else Beam(how.beams, how.length_penalty)
    limits = [len(source) + how.extra_tokens for source in sources]
    return generate(model, input_ids, input_ids != model.config.pad_token_id, search=found, max_new_tokens=limits)


class Translator:
    """A model and its tokenizer, ready to translate. script: that of the source language, e.g. "LATIN"; "" = any."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, script: str = "") -> None:
        self.model, self.tokenizer, self.script = model, tokenizer, script

    @classmethod
    def load(cls, folder: Path) -> Translator:
        """From a folder as ``save`` writes it. Raises CheckpointError where that fails."""
        model = load(folder)
        if not isinstance(model, Transformer):
            raise CheckpointError(f"{folder} holds a {type(model).__name__}, not a Transformer that headwise trained")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no tokenizer.json: copy it from where the model comes from")
        try:
            tokenizer = read_tokenizer(path)
            script = _source_script(folder / "task.json")
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        if tokenizer.get_vocab_size() != model.config.vocab_size:
            raise CheckpointError(
                f"{path} has {tokenizer.get_vocab_size()} tokens, the model beside it {model.config.vocab_size}"
            )
        return cls(model, tokenizer, script)

    def save(self, folder: Path) -> None:
        """Writes config.json, model.safetensors (weights in float16), tokenizer.json and task.json."""
        save(self.model, folder, torch.float16)
        write(folder / "tokenizer.json", lambda place: self.tokenizer.save(str(place)))
        task = json.dumps({"task": "translate", "source_script": self.script})
        write(folder / "task.json", lambda place: place.write_text(task + "\n", "utf-8"))

    def check(self, sentence: str) -> None:
        """Raises ValueError, saying why, where a sentence is not one that this model can read."""
        if not sentence.strip():
            raise ValueError("the sentence is empty")
        if not sentence.isascii() and any("\ud800" <= character <= "\udfff" for character in sentence):
            raise ValueError("the sentence is not valid text (UTF-8)")
        length, most = len(self.encode([sentence])[0]), self.model.config.max_positions
        if length > most:
            raise ValueError(f"the sentence has {length} tokens, and the model reads at most {most}: cut it into sentences")
        script = main_script([sentence])
        if self.script and script and script != self.script:
            raise ValueError(f"the model reads {self.script} script; this is {script}: {sentence[:40]!r}")
        if not script:
            raise ValueError(f"the sentence has no letters: {sentence[:40]!r}")

    def encode(self, sentences: Sequence[str]) -> list[Ids]:
        """Token ids of each sentence, the end token last."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(sentences))]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """Token ids of both sides of each pair."""
        sources, targets = (self.encode(side) for side in zip(*pairs, strict=True))
        return list(zip(sources, targets, strict=True))

    def translate(self, sentences: Sequence[str], how: Search | None = None, batch_size: int = 64) -> list[str]:
        """Translations in the order given; an empty one for an empty sentence. Similar lengths are searched together."""
        ids = self.encode(sentences)
        order = sorted((i for i in range(len(ids)) if sentences[i].strip()), key=lambda i: len(ids[i]))
        translations = [""] * len(ids)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            found = search(self.model, [ids[i] for i in chosen], how or Search())
            for i, hypothesis in zip(chosen, found, strict=True):
                translations[i] = self.tokenizer.decode(hypothesis.tokens)
        return translations


def _source_script(path: Path) -> str:
    """The source language's script as ``save`` wrote it; "" without such a file."""
    if not path.is_file():
        return ""
    try:
        task = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(task, dict) or not isinstance(task.get("source_script"), str):
        raise ValueError(f'{path}: expected an object with a string "source_script"')
    return task["source_script"]


def main_script(lines: Iterable[str]) -> str:
    """The script of most letters, as the first word of their Unicode names: "LATIN", "CJK", "CYRILLIC"; "" without letters."""
    letters = Counter(character for line in lines for character in line if character.isalpha())
    scripts = Counter[str]()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "UNKNOWN").split()[0]] += count
    return scripts.most_common(1)[0][0] if scripts else ""
