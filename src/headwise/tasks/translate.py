"""Translation: sentences in, sentences out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sacrebleu
import torch
from tokenizers import Tokenizer
from torch import Tensor

from headwise.models.checkpoint import CheckpointError, load
from headwise.models.transformer import Transformer
from headwise.tasks.decoding import Hypothesis, beam, greedy
from headwise.tasks.pairs import Ids, pad


@dataclass(frozen=True)
class Search:
    """How a translation is searched for: beams = 1 is greedy. At most ``extra_tokens`` more than the source has."""

    beams: int = 4
    length_penalty: float = 0.6
    extra_tokens: int = 50


class _Steps:
    """A Transformer decoding, ``width`` rows for every source sentence."""

    def __init__(self, model: Transformer, input_ids: Tensor, attention_mask: Tensor, width: int) -> None:
        self.model, self.cache = model, model.make_cache()
        self.memory = model.encode(input_ids, attention_mask).repeat_interleave(width, dim=0)
        self.attention_mask = attention_mask.repeat_interleave(width, dim=0)

    def advance(self, tokens: Tensor) -> Tensor:
        hidden = self.model.decode(tokens, self.memory, self.attention_mask, cache=self.cache)
        return self.model.logits(hidden[:, -1])

    def reorder(self, index: Tensor) -> None:
        for layer in self.cache:
            layer.own.reorder(index)  # beams of one sentence share its source


@torch.no_grad()
def search(model: Transformer, sources: Sequence[Ids], how: Search) -> list[Hypothesis]:
    """The best translation of every source (token ids with the end token), in one batch."""
    config = model.config
    input_ids = pad(sources, config.pad_token_id)
    steps = _Steps(model, input_ids, input_ids != config.pad_token_id, how.beams)
    limit = min(max(map(len, sources)) + how.extra_tokens, config.max_positions)
    ends = len(sources), config.bos_token_id, config.eos_token_id, limit
    return greedy(steps, *ends) if how.beams == 1 else beam(steps, *ends, how.beams, how.length_penalty)


class Translator:
    """A model and its tokenizer, ready to translate."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(cls, folder: Path) -> Translator:
        """From a folder with config.json, model.safetensors and tokenizer.json."""
        model = load(folder)
        if not isinstance(model, Transformer):
            raise CheckpointError(f"{folder} holds a {type(model).__name__}, which does not translate")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path} is no tokenizer: {error}") from None
        if tokenizer.get_vocab_size() != model.config.vocab_size:
            raise CheckpointError(
                f"{path} has {tokenizer.get_vocab_size()} tokens, the model beside it {model.config.vocab_size}"
            )
        return cls(model, tokenizer)

    def encode(self, sentences: Sequence[str]) -> list[Ids]:
        """Token ids of each sentence, the end token last."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(sentences))]

    def translate(self, sentences: Sequence[str], how: Search | None = None, batch_size: int = 64) -> list[str]:
        """Translations in the order given. Sentences of similar length are searched together."""
        ids = self.encode(sentences)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        translations = [""] * len(ids)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            found = search(self.model, [ids[i] for i in chosen], how or Search())
            for i, hypothesis in zip(chosen, found, strict=True):
                translations[i] = self.tokenizer.decode(hypothesis.tokens)
        return translations


def bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """sacreBLEU of Chinese translations against one reference each, 0 to 100, characters as tokens ("zh")."""
    return sacrebleu.corpus_bleu(list(translations), [list(references)], tokenize="zh").score
